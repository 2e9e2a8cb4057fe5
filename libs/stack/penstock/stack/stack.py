"""Bringing a stack up, taking it down, and what lies between."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.contracts.errors import Conflict, NotFound, PenstockError, Unavailable
from penstock.runtime.settings import KafkaSettings
from penstock.stack import fitness, ports, processes, programs, stackfile
from penstock.stack.inspection import ProgramStatus, State, status
from penstock.stack.stackfile import StackFile
from penstock.stack.supervisor import Supervisor, configuration

Progress = Callable[[ProgramStatus], None]
"""Told each time a program's state or what it waits for changes."""

_POLL_S = 0.2
_SUPERVISOR_WITHIN_S = 15.0
_DOWN_WITHIN_S = 90.0
_ORPHANS_END_WITHIN_S = 15.0


@dataclass(frozen=True)
class Stack:
    """A running stack: where everything is, and a hand on each program."""

    file: StackFile

    @property
    def home(self) -> Path:
        return self.file.home

    @property
    def endpoint(self) -> str:
        return self.file.endpoint

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.file.kafka, topic_prefix=_topic_prefix())

    def status(self) -> list[ProgramStatus]:
        return status(self.home)

    def start(self, program: str) -> None:
        self._supervisor.start(program)

    def stop(self, program: str) -> None:
        """Ends it in its own way and keeps it down until `start`."""
        self._supervisor.stop(program)

    def pid(self, program: str) -> int | None:
        """Of its main process, or None while it does not run."""
        return next((one.pid for one in self._supervisor.running() if one.program == program), None)

    def wait(
        self, within: float, progress: Progress | None = None, only: Sequence[str] | None = None
    ) -> None:
        """Until all programs, or `only` these, are ready. Raises Unavailable naming those that are
        not after `within` seconds.
        """
        deadline = time.monotonic() + within
        told: dict[str, ProgramStatus] = {}
        while True:
            now = [one for one in self.status() if only is None or one.program in only]
            for one in now:
                if progress is not None and told.get(one.program) != one:
                    progress(one)
                told[one.program] = one
            late = [one for one in now if one.state is not State.READY]
            if now and not late:
                return
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"not ready within {within:.0f} s: {'; '.join(_sentence(one) for one in late)}",
                    where=str(self.home),
                    remedy=f"See `penstock logs {late[0].program}`" if late else "Run `penstock up`",
                )
            time.sleep(_POLL_S)

    def down(self) -> None:
        down(self.home)

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
    """Brings up the stack of `home`, or what of it is down, and returns when every program is ready.

    `services`: by default all that are installed. `ports_wanted`: by default the fixed ones; a
    taken one is replaced by a free one. Raises NotFound before `make setup`, Conflict when the
    stack is up with other services, Unavailable when something does not get ready within `within`
    seconds: it stays up then, for `status` and `logs` to tell why.
    """
    fitness.check()
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    chosen = _chosen(services)
    with _locked(home / "run" / "lock"):
        supervisor = Supervisor(stackfile.socket(home))
        if supervisor.answers():
            stack = Stack(StackFile.read(home))
            if services is not None and set(chosen) - set(stack.file.services):
                raise Conflict(
                    f"the stack runs with {', '.join(stack.file.services)}",
                    where=str(home),
                    remedy="Run `penstock down` first",
                )
        else:
            _clear(home)
            stack = Stack(_laid_out(home, chosen, dict(ports_wanted or ports.DEFAULTS)))
        _start(stack)
    stack.wait(within, progress)
    return stack


def down(home: Path, progress: Callable[[str], None] | None = None) -> None:
    """Ends the stack of `home`: services first, then Triton and Envoy, then Kafka. `progress` is
    told each program that has ended.

    Leaves no process, socket or shared memory, whatever was killed before. The data stay. Does
    nothing when nothing is up.
    """
    home = home.resolve()
    supervisor = Supervisor(stackfile.socket(home))
    living = {process.program for process in processes.of_stack(home)}
    if supervisor.answers():
        supervisor.shut_down()
        deadline = time.monotonic() + _DOWN_WITHIN_S
        while (
            now := {process.program for process in processes.of_stack(home)}
        ) and time.monotonic() < deadline:
            _tell_ended(living - now, progress)
            living = now
            if now.isdisjoint({processes.SUPERVISOR}):
                break
            time.sleep(_POLL_S)
    _clear(home)
    _tell_ended(living, progress)
    (home / stackfile.FILE).unlink(missing_ok=True)


def _tell_ended(ended: set[str], progress: Callable[[str], None] | None) -> None:
    for program in sorted(ended - {processes.SUPERVISOR}):
        if progress is not None:
            progress(program)


def _chosen(services: Sequence[str] | None) -> tuple[str, ...]:
    installed = programs.all_services()
    if unknown := sorted(set(services or ()) - set(installed)):
        raise NotFound(f"no service {', '.join(unknown)}", remedy=f"There are: {', '.join(installed)}")
    return tuple(service for service in installed if services is None or service in services)


def _laid_out(home: Path, services: tuple[str, ...], wanted: dict[str, int]) -> StackFile:
    """Chooses the ports, writes every file that the programs start from, and starts supervisord; no
    program runs yet.
    """
    folder = stackfile.socket(home).parent
    with _locked(folder.parent / "lock"):
        stack = StackFile.of(home, ports.choose(wanted, _taken(folder)), services)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "ports").write_text(json.dumps(list(stack.ports.values())))
        stack.write()
        _write_programs(stack)
        _start_supervisor(stack)
    return stack


def _taken(own: Path) -> set[int]:
    """Ports of the other stacks that run: what they have not opened yet does not look taken."""
    taken: set[int] = set()
    for folder in own.parent.iterdir():
        if folder != own and folder.is_dir() and Supervisor(folder / "supervisor.sock").answers():
            taken |= set(json.loads((folder / "ports").read_text()))
    return taken


def _write_programs(stack: StackFile) -> None:
    run, logs = stack.home / "run", stack.home / "logs"
    for path in (run, logs):
        path.mkdir(mode=0o700, exist_ok=True)
    supervised = []
    for spec in programs.specs(stack):
        path = run / f"{spec.program}.json"
        spec.write(path)
        supervised.append(programs.supervised(spec, path))
    text = configuration(supervised, run=run, logs=logs, socket=stackfile.socket(stack.home))
    (run / "supervisord.conf").write_text(text)


def _start_supervisor(stack: StackFile) -> None:
    config = stack.home / "run" / "supervisord.conf"
    marks = {processes.HOME_VARIABLE: str(stack.home), processes.PROGRAM_VARIABLE: processes.SUPERVISOR}
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
        env=programs.inherited(os.environ) | marks,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    supervisor = Supervisor(stackfile.socket(stack.home))
    deadline = time.monotonic() + _SUPERVISOR_WITHIN_S
    while not supervisor.answers():
        if done.returncode or time.monotonic() > deadline:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise PenstockError(f"supervisord did not start: {said}", where=str(config))
        time.sleep(_POLL_S / 5)


def _start(stack: Stack) -> None:
    """Starts what does not run, each program as soon as the files are there that it starts from."""
    running = {process.program for process in processes.of_stack(stack.home)}
    preparations: dict[str, Callable[[], None]] = {
        programs.KAFKA: programs.broker(stack.file).prepare,
        programs.TRITON: programs.triton(stack.file).prepare,
        programs.ENVOY: lambda: _write_door(stack.file),
    }
    _make_keys(stack.home)

    def start(program: str) -> None:
        if program in preparations:
            preparations[program]()
        stack.start(program)

    wanted = [program for program in (*programs.PARTS, *stack.file.services) if program not in running]
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        list(pool.map(start, wanted))


def _make_keys(home: Path) -> None:
    from penstock.packages import keys

    keys.ensure(home / "keys")


def _write_door(stack: StackFile) -> None:
    """Envoy does not start without its files. They are inference's; it writes the first ones as a
    program of its own.
    """
    settings = programs.platform(stack) | programs.service_settings(stack, "inference")
    command = [sys.executable, "-m", "penstock_inference.door.files"]
    done = subprocess.run(
        command, env=programs.inherited(os.environ) | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PenstockError(
            f"the door's first files were not written: {done.stderr.strip()[-1000:]}",
            where=str(stack.home / "envoy"),
        )


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


def _topic_prefix() -> str:
    from penstock.runtime.settings import Platform

    return Platform().kafka.topic_prefix


def _sentence(one: ProgramStatus) -> str:
    return f"{one.program} is {one.state}" + (
        f", waits for {', '.join(one.waits_for)}" if one.waits_for else ""
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One at a time, over all processes. The folder is made, readable by nobody else."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise PenstockError("this folder belongs to another user", where=str(path.parent), remedy="Remove it")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
