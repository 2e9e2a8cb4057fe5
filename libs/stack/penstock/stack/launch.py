"""Launcher that supervisord runs for each program: `python -m penstock.stack.launch SPEC`.

It clears away what a killed predecessor left, then becomes the program. As it runs at every
restart, it imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from penstock.stack import processes


@dataclass(frozen=True)
class Spec:
    """Command and environment of one program, as `up` decided them. `environment` is beside what
    supervisord hands down; `shared_memory` is the prefix of the program's regions in /dev/shm.
    """

    home: str
    program: str
    command: list[str]
    environment: dict[str, str]
    shared_memory: str | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))


def main(path: Path) -> None:
    spec = Spec(**json.loads(path.read_text()))
    processes.end(processes.of_stack(Path(spec.home), spec.program), grace=0)
    if spec.shared_memory:
        processes.sweep_shared_memory(spec.shared_memory)
    marks = {processes.HOME_VARIABLE: spec.home, processes.PROGRAM_VARIABLE: spec.program}
    os.execve(spec.command[0], spec.command, {**os.environ, **spec.environment, **marks})  # noqa: S606


if __name__ == "__main__":
    main(Path(sys.argv[1]))
