"""Recording of predictions in Envoy: a script writes one line a call before the answer leaves.

The log is the recorder's spool (`record/spool.py`).
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Final

from penstock.serving.protocol.checks import EVENTS
from penstock_inference.door.door import KEPT_BYTES, KEPT_HEAD_BYTES, LARGE_HEADER, READ_HEADER, Door
from penstock_inference.door.xds import EXTENSIONS, LUA, Json

_SCRIPT: Final = "record"


def recording_filter(door: Door) -> Json:
    """HTTP filter that holds the script for this door's log; only routes that ask for it run it."""
    return {
        "name": LUA,
        "typed_config": {
            "@type": EXTENSIONS + "filters.http.lua.v3.Lua",
            "source_codes": {_SCRIPT: {"inline_string": _script(door)}},
        },
    }


def recorded(*, required: bool) -> Json:
    """Part of a route whose calls are recorded; `required` withholds an answer that cannot be."""
    return {
        "typed_per_filter_config": {
            LUA: {"@type": EXTENSIONS + "filters.http.lua.v3.LuaPerRoute", "name": _SCRIPT}
        },
        "metadata": {"filter_metadata": {LUA: {"required": required}}},
    }


def _script(door: Door) -> str:
    script = resources.files("penstock_inference.door").joinpath("recording.lua").read_text()
    constants = {
        "@KEPT@": str(KEPT_BYTES),
        "@HEAD@": str(KEPT_HEAD_BYTES),
        "@LARGE@": json.dumps(LARGE_HEADER),
        "@READ@": json.dumps(READ_HEADER),
        "@EVENTS@": json.dumps(EVENTS),
        "@LOG@": json.dumps(str(door.log), ensure_ascii=False),
    }
    for name, value in constants.items():
        script = script.replace(name, value)
    return script
