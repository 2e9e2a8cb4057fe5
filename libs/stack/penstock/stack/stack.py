"""Running stack: brought up, waited for, taken down."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.contracts.errors import Conflict, NotFound, Unavailable
from penstock.runtime.settings import KafkaSettings, Platform
from penstock.stack import fitness, passwords, ports, processes, programs, stackfile, startup
from penstock.stack.inspection import ProgramStatus, State
from penstock.stack.inspection import status as status
from penstock.stack.logfiles import logs as logs
from penstock.stack.stackfile import StackFile
from penstock.stack.supervisor import Supervisor

# Called each time a program's state or what it waits for changes.
Progress = Callable[[ProgramStatus], None]

_POLL_S = 0.2
_DOWN_WITHIN_S = 90.0
_ORPHANS_END_WITHIN_S = 15.0


@dataclass(frozen=True)
class Stack:
    """Running stack: its addresses, and its programs to start and stop."""

    file: StackFile

    @property
    def home(self) -> Path:
        return self.file.home

    @property
    def endpoint(self) -> str:
        return self.file.endpoint

    @property
    def kafka(self) -> KafkaSettings:
        """Settings of whoever has no password."""
        return KafkaSettings(bootstrap_servers=self.file.kafka, topic_prefix=Platform().kafka.topic_prefix)

    @property
    def admin(self) -> KafkaSettings:
        """Settings to reach Kafka as who may do everything there."""
        return programs.kafka_user(self.file, passwords.ADMIN)

    def status(self, only: Collection[str] | None = None) -> list[ProgramStatus]:
        return status(self.home, only)

    def start(self, program: str) -> None:
        self._supervisor.start(program)

    def stop(self, program: str) -> None:
        """Ends a program by SIGTERM and keeps it down until `start`."""
        self._supervisor.stop(program)

    def pid(self, program: str) -> int | None:
        """Process id of a program's main process; None while it does not run."""
        return next((one.pid for one in self._supervisor.running() if one.program == program), None)

    def wait(
        self, within: float, progress: Progress | None = None, only: Sequence[str] | None = None
    ) -> None:
        """Waits until all programs, or `only` these, are ready. Raises Unavailable naming those
        that are not after `within` seconds.
        """
        deadline = time.monotonic() + within
        told: dict[str, ProgramStatus] = {}
        asked: Collection[str] | None = only
        while True:
            now = {one.program: one for one in self.status(asked)}
            for program, one in now.items():
                if progress is not None and told.get(program) != one:
                    progress(one)
            told |= now
            late = [one for one in now.values() if one.state is not State.READY]
            if now and not late:
                if asked is only:
                    return
                asked = only  # all at once, as the last look
                continue
            asked = [one.program for one in late] or only
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"not ready within {within:.0f} s: {'; '.join(_sentence(one) for one in late)}",
                    where=str(self.home),
                    remedy=f"See `penstock logs {late[0].program}`" if late else "Run `penstock up`",
                )
            time.sleep(_POLL_S)

    @property
    def _supervisor(self) -> Supervisor:
        return Supervisor(stackfile.socket(self.home))


def up(
    home: Path,
    services: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    ports_wanted: Mapping[str, int] | None = None,
    within: float = 120.0,
) -> Stack:
    """Brings up the stack of `home`, or what of it is down, and returns when every program is
    ready.

    `services`: by default all that are installed. `ports_wanted`: by default those of last time, at
    first the fixed ones; a taken one is replaced by a free one. Raises NotFound before `make setup`,
    Conflict when the stack is up with other services, Unavailable when something does not get ready
    within `within` seconds: it stays up then, for `status` and `logs` to tell why.
    """
    fitness.check()
    home = home.resolve()
    chosen = _chosen(services)
    with startup.private(home), startup.locked(home / "run" / "lock"):
        if Supervisor(stackfile.socket(home)).answers():
            file = StackFile.read(home)
            if services is not None and set(chosen) - set(file.services):
                raise Conflict(
                    f"the stack runs with {', '.join(file.services)}",
                    where=str(home),
                    remedy="Run `penstock down` first",
                )
        else:
            _clear(home)
            wanted = ports_wanted or {**ports.DEFAULTS, **startup.last_ports(home)}
            file = startup.lay_out(home, chosen, wanted)
        startup.start(file)
    stack = Stack(file)
    stack.wait(within, progress)
    return stack


def down(home: Path) -> None:
    """Ends the stack of `home`: services first, then Triton and Envoy, then Kafka.

    Leaves no process, socket or shared memory, whatever was killed before. The data stay. Does
    nothing when nothing is up.
    """
    home = home.resolve()
    supervisor = Supervisor(stackfile.socket(home))
    if supervisor.answers():
        supervisor.shut_down()
        deadline = time.monotonic() + _DOWN_WITHIN_S
        while processes.of_stack(home, processes.SUPERVISOR) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    _clear(home)
    (home / stackfile.FILE).unlink(missing_ok=True)


def _chosen(services: Sequence[str] | None) -> tuple[str, ...]:
    installed = programs.all_services()
    if unknown := sorted(set(services or ()) - set(installed)):
        raise NotFound(f"no service {', '.join(unknown)}", remedy=f"There are: {', '.join(installed)}")
    return tuple(service for service in installed if services is None or service in services)


def _clear(home: Path) -> None:
    """Ends every process of the stack that is left, the services first, and removes its socket and
    shared memory.
    """
    orphans = processes.of_stack(home)
    processes.end([one for one in orphans if one.program == processes.SUPERVISOR], _ORPHANS_END_WITHIN_S)
    processes.end([one for one in orphans if one.program not in programs.PARTS], _ORPHANS_END_WITHIN_S)
    processes.end(processes.of_stack(home), _ORPHANS_END_WITHIN_S)
    processes.sweep_shared_memory(stackfile.shared_memory(home))
    shutil.rmtree(stackfile.socket(home).parent, ignore_errors=True)


def _sentence(one: ProgramStatus) -> str:
    waits = f", waits for {', '.join(one.waits_for)}" if one.waits_for else ""
    return f"{one.program} is {one.state}{waits}"
