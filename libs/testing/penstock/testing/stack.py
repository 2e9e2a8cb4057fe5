"""The whole embedded stack for tests that cross services, and a hand that kills its programs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from penstock.client import ClientSettings, Penstock
from penstock.stack.inspection import State
from penstock.stack.ports import DEFAULTS
from penstock.stack.stack import Stack, up
from penstock.testing.guard import guarded
from penstock.testing.wait import until

# A stack under test leaves the default ports to the developer's own.
PORTS = {name: port + 20_000 for name, port in DEFAULTS.items()}
UP_WITHIN_S = 300.0
READY_WITHIN_S = 120.0
LAST_LINES = 60  # of each program's log, beside a failed test
_DOWN = "import pathlib, sys; from penstock.stack.stack import down; down(pathlib.Path(sys.argv[1]))"


class StackUnderTest:
    """A running stack. Programs are named as in `penstock status`: `kafka`, `triton`, `envoy`, `ingest` …"""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.home = stack.home
        self.endpoint = stack.endpoint
        self.bootstrap_servers = stack.file.kafka

    @cached_property
    def client(self) -> Penstock:
        """A client of this stack, whatever the environment says."""
        return Penstock(ClientSettings(home=self.home, endpoint=self.endpoint, kafka=self.stack.kafka))

    def pid(self, program: str) -> int:
        """Id of the program's main process; waits while it is being started again."""
        return (
            until(lambda: self.stack.pid(program), within=READY_WITHIN_S, what=f"{program} has a process")
            or 0
        )

    def kill(self, program: str) -> int:
        """kill -9 of its main process, at once; returns the pid. It is started again by itself."""
        pid = self.pid(program)
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, program: str) -> None:
        """SIGTERM, and it stays down until `start`. Returns when it has ended."""
        self.stack.stop(program)

    def start(self, program: str) -> None:
        self.stack.start(program)

    def ready(self, *programs: str, within: float = READY_WITHIN_S) -> None:
        """Waits until these, or all, are ready. Fails naming what they wait for."""
        self.stack.wait(within, only=programs or None)

    def waits(self, program: str, for_what: str, within: float = READY_WITHIN_S) -> None:
        """Waits until `program` says that it waits for something that begins with `for_what`."""
        until(
            lambda: self.stack.status([program])[0],
            accept=lambda now: (
                now.state is State.WAITING and any(thing.startswith(for_what) for thing in now.waits_for)
            ),
            within=within,
            what=f"{program} waits for {for_what}",
        )

    def log(self, program: str) -> str:
        return (self.home / "logs" / f"{program}.log").read_text(errors="replace")

    def last_words(self) -> str:
        """Describes each program's state, with the newest lines of its log."""
        states = "\n".join(str(one) for one in self.stack.status())
        logs = (
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-LAST_LINES:])
            for path in sorted((self.home / "logs").glob("*.log"))
        )
        return "\n".join([states, *logs])

    @contextmanager
    def without(self, program: str) -> Iterator[None]:
        """`program` is stopped within the block, and ready again after it."""
        self.stop(program)
        try:
            yield
        finally:
            self.start(program)
            self.ready(program)


@contextmanager
def running_stack(
    services: Sequence[str] | None = None, home: Path | None = None
) -> Iterator[StackUnderTest]:
    """A stack in a directory of its own, which goes with it. It ends even when this process is killed."""
    own = home or Path(tempfile.mkdtemp(prefix="penstock-stack-"))
    try:
        with guarded(sys.executable, "-c", _DOWN, str(own)):
            yield StackUnderTest(up(own, services, ports_wanted=PORTS, within=UP_WITHIN_S))
    finally:
        if home is None:
            shutil.rmtree(own, ignore_errors=True)
