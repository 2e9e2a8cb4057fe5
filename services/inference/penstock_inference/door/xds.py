"""Parts that Envoy's documents share: type names, addresses, matches, watched files.

Documents are plain values here; `files.py` writes them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from penstock.runtime.local_http import UNIX

Json = dict[str, Any]

TYPES: Final = "type.googleapis.com/"
EXTENSIONS: Final = TYPES + "envoy.extensions."
LUA: Final = "envoy.filters.http.lua"


def address(text: str) -> Json:
    """Address of `host:port`, an IPv6 host in brackets, or of `unix:` and a socket's path."""
    if text.startswith(UNIX):
        return {"pipe": {"path": text.removeprefix(UNIX), "mode": 0o600}}
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def is_ip(text: str) -> bool:
    """Tells whether nothing has to be looked up: a socket, or a host that is a number."""
    if text.startswith(UNIX):
        return True
    try:
        ipaddress.ip_address(text.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


def header(key: str, value: str) -> Json:
    """Header that is set, whatever it was before."""
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def method_is(name: str) -> list[Json]:
    """Match of a request by its HTTP method."""
    return [{"name": ":method", "string_match": {"exact": name}}]


def watched(folder: Path, name: str) -> Json:
    """Source of resources: a file that Envoy reads again when another is renamed over it."""
    return {
        "path_config_source": {"path": str(folder / name), "watched_directory": {"path": str(folder)}},
        "resource_api_version": "V3",
    }


def http_listener(name: str, listen: str, manager: Mapping[str, Any], **limits: int) -> Json:
    """Listener for HTTP at `listen`, with `limits` of its own; `manager` is its connection
    manager's configuration.
    """
    return {
        "name": name,
        "address": address(listen),
        **limits,
        "filter_chains": [{"filters": [connection_manager(name, manager)]}],
    }


def connection_manager(name: str, manager: Mapping[str, Any]) -> Json:
    """Filter of a listener that speaks HTTP; its figures are counted under `name`."""
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": EXTENSIONS + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            **manager,
        },
    }


# Last filter of a listener: it sends the request where its route says.
ROUTER: Final[Json] = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": EXTENSIONS + "filters.http.router.v3.Router"},
}
