"""A trial's process, a copy of the pool's fork server. It answers in JSON lines: `epoch`, `fold`, and
last `measured` or `error`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.contracts.pipeline import Pipeline
from penstock.runtime.child import error_said
from penstock.runtime.forking import forked
from penstock_tuner.trials.trial import measure
from penstock_tuner.trials.workbench import Workbench


def main() -> None:
    request, messages = forked()
    gc.enable()
    with suppress(OSError):  # the kernel, out of memory, ends a trial and not its study
        Path("/proc/self/oom_score_adj").write_text("1000")
    with os.fdopen(messages, "w") as channel:

        def say(**line: Any) -> None:
            channel.write(json.dumps(line) + "\n")
            channel.flush()

        try:
            measured = measure(
                Pipeline.model_validate(request["pipeline"]),
                Workbench.model_validate(request["work"]),
                on_epoch=lambda epoch: say(epoch=asdict(epoch)),
                on_fold=lambda fold: say(fold=fold),
            )
            say(measured=measured.model_dump())
        except Exception as error:
            traceback.print_exc()
            say(error=error_said(error))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # what was loaded needs no taking down


if __name__ == "__main__":
    main()
