"""Start-up of a stack: chooses its ports, writes what its programs start from, and starts them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from penstock.contracts.errors import PenstockError
from penstock.packages.keys import Keys
from penstock.stack import passwords, ports, processes, programs, stackfile
from penstock.stack.stackfile import StackFile
from penstock.stack.supervisor import Supervisor, configuration

_POLL_S = 0.04
_PORTS = "ports.json"
_SUPERVISOR_WITHIN_S = 15.0
_KAFKA_WITHIN_S = 60.0


def lay_out(home: Path, services: tuple[str, ...], wanted: Mapping[str, int]) -> StackFile:
    """Chooses the ports, writes every file that the programs start from, and starts supervisord; no
    program runs yet.
    """
    folder = stackfile.socket(home).parent
    with locked(folder.parent / "lock"):
        stack = StackFile.of(home, ports.choose(wanted, _taken(folder)), services)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "ports").write_text(json.dumps(list(stack.ports.values())))
        stack.write()
        _write_programs(stack)
        _start_supervisor(stack)
    return stack


def last_ports(home: Path) -> dict[str, int]:
    """Ports that the stack of `home` had when it was up last, by name: programs of the user's own
    know them. Empty where it was never up.
    """
    try:
        found: dict[str, int] = json.loads((home / "run" / _PORTS).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {name: port for name, port in found.items() if name in ports.DEFAULTS}


def _taken(own: Path) -> set[int]:
    """Ports of the other stacks that run: one that is not open yet does not look taken."""
    taken: set[int] = set()
    for folder in own.parent.iterdir():
        if folder != own and folder.is_dir() and Supervisor(folder / "supervisor.sock").answers():
            taken |= set(json.loads((folder / "ports").read_text()))
    return taken


def _write_programs(stack: StackFile) -> None:
    run, logs = stack.home / "run", stack.home / "logs"
    for path in (run, logs):
        path.mkdir(mode=0o700, exist_ok=True)
    specs = {run / f"{spec.program}.json": spec for spec in programs.specs(stack)}
    for path, spec in specs.items():
        spec.write(path)
    supervised = [programs.supervised(spec, path) for path, spec in specs.items()]
    text = configuration(supervised, run=run, logs=logs, socket=stackfile.socket(stack.home))
    (run / "supervisord.conf").write_text(text)
    (run / _PORTS).write_text(json.dumps(stack.ports, indent=1))


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
        time.sleep(_POLL_S)


def start(stack: StackFile) -> None:
    """Starts what does not run, each program as soon as the files are there that it starts from."""
    running = {process.program for process in processes.of_stack(stack.home)}
    preparations: dict[str, Callable[[], None]] = {
        programs.KAFKA: programs.broker(stack).prepare,
        programs.TRITON: programs.triton(stack).prepare,
        programs.ENVOY: lambda: _prepare_services(stack),
    }
    Keys(stack.home / "keys").ensure()
    users = passwords.ensure(stack.home / programs.KAFKA)

    def start_one(program: str) -> None:
        if program in preparations:
            preparations[program]()
        Supervisor(stackfile.socket(stack.home)).start(program)

    wanted = [program for program in (*programs.PARTS, *stack.services) if program not in running]
    with ThreadPoolExecutor(len(wanted) + 1) as pool:
        opened = pool.submit(_open_kafka, stack, users)
        list(pool.map(start_one, wanted))
        opened.result()


def _open_kafka(stack: StackFile, users: Mapping[str, str]) -> None:
    """Makes Kafka's users, with their rights, as soon as it answers. Raises Unavailable."""
    import structlog

    from penstock.runtime.kafka.access import open_for  # kafka-python, for this verb alone

    if not structlog.is_configured():  # who starts a stack shows its status, and no log
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    broker = programs.kafka_user(stack, passwords.BROKER)
    open_for(
        broker, {user: users[user] for user in users if user != passwords.BROKER}, within_s=_KAFKA_WITHIN_S
    )


def _prepare_services(stack: StackFile) -> None:
    """Lets services write the files that Envoy starts from. Raises PenstockError."""
    for service in programs.preparing_services():
        settings = programs.platform(stack) | programs.service_settings(stack, service)
        done = subprocess.run(
            [sys.executable, "-m", f"penstock_{service}.prepare"],
            env=programs.inherited(os.environ) | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PenstockError(
                f"{service} did not prepare the stack: {done.stderr.strip()[-1000:]}", where=str(stack.home)
            )


@contextmanager
def private(home: Path) -> Iterator[None]:
    """Makes the home, and keeps it and whatever is written inside the block to this user: it holds
    people's data and keys.
    """
    before = os.umask(0o077)
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        yield
    finally:
        os.umask(before)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock among all processes of this user. Makes its folder, readable by nobody else."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise PenstockError("this folder belongs to another user", where=str(path.parent), remedy="Remove it")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
