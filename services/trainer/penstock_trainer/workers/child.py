"""A worker's process, a copy of a fork server that has loaded torch. It answers in JSON lines: worker 0
`epoch` or `step_s`, each last `done`, `error`, or `lost`, where it was left alone.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import Store

from penstock.modelkit.fitting import Fitting
from penstock.modelkit.probe import step_seconds
from penstock.modelkit.process_group import PeerLost, by_address, by_file, joined
from penstock.runtime.child import error_said
from penstock.runtime.forking import forked


def main() -> None:
    request, messages = forked()
    gc.enable()
    with os.fdopen(messages, "w") as channel:

        def say(**line: Any) -> None:
            channel.write(json.dumps(line) + "\n")
            channel.flush()

        try:
            work(request, say)
            say(done=True)
        except PeerLost as error:
            say(lost=str(error))
        except Exception as error:
            traceback.print_exc()
            say(error=error_said(error))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # what was loaded needs no taking down


def work(request: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Does one worker's part of an order."""
    fitting, rank, size = Fitting.read(Path(request["fitting"])), request["rank"], request["size"]
    store = _meeting(request["meet"], rank, size)
    with joined(store, rank, size, device=fitting.device) as group:
        if request["steps"]:
            took = step_seconds(fitting, request["steps"], group)
            if rank == 0:
                say(step_s=took)
        else:
            fitting.train(
                group,
                checkpoint=Path(request["checkpoint"]),
                on_epoch=lambda epoch: say(epoch=asdict(epoch)),
            )


def _meeting(place: Mapping[str, Any], rank: int, size: int) -> Store:
    """The place where workers find one another: a file, or a port of worker 0."""
    if "file" in place:
        return by_file(Path(place["file"]), size)
    return by_address(**place, size=size, leads=rank == 0)


if __name__ == "__main__":
    main()
