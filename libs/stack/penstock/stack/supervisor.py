"""Supervisord, one a stack: its configuration as text, its answers over a Unix socket."""

from __future__ import annotations

import http.client
import resource
import shlex
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

LOG_BYTES = "16MB"
LOG_BACKUPS = 3
# Priority by group; they stop in the reverse order: the services first, while Kafka still takes
# what they have in flight.
GROUPS = {"broker": 10, "serving": 20, "services": 30}

_SETTLED_S = 5  # seconds after which a program counts as started
_STOPS_WITHIN_S = 20  # seconds from SIGTERM to SIGKILL; Triton, where its stub was killed, takes 12
_TRIES = 1000  # starts in a row that fail, before it gives up
_MOST_FILES = 65536  # file descriptors
_SILENT = (OSError, http.client.HTTPException, xmlrpc.client.Error)  # it is gone, or on its way


@dataclass(frozen=True)
class Program:
    name: str
    group: str
    command: list[str]


@dataclass(frozen=True)
class Running:
    """State of a program as supervisord has it: RUNNING, STARTING, BACKOFF, STOPPING, STOPPED,
    EXITED, FATAL or UNKNOWN.
    """

    program: str
    state: str
    pid: int | None


def configuration(programs: Iterable[Program], *, run: Path, logs: Path, socket: Path) -> str:
    """Text of supervisord.conf. `up` starts the programs; one that dies is started again, after 1,
    2, 3 … s while it dies in its first 5 s.
    """
    programs = list(programs)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "logfile": logs / "supervisord.log",
            "logfile_maxbytes": LOG_BYTES,
            "logfile_backups": 1,
            "pidfile": run / "supervisord.pid",
            "childlogdir": logs,
            "directory": run,
            "umask": "077",
            "minfds": _MOST_FILES if most_files == resource.RLIM_INFINITY else min(_MOST_FILES, most_files),
            "nocleanup": "true",
        },
        "unix_http_server": {"file": socket, "chmod": "0600"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for program in programs:
        sections[f"program:{program.name}"] = _program(program, logs)
    for group, priority in GROUPS.items():
        if members := [program.name for program in programs if program.group == group]:
            sections[f"group:{group}"] = {"programs": ",".join(members), "priority": priority}
    return "\n".join(_section(name, values) for name, values in sections.items())


def _program(program: Program, logs: Path) -> dict[str, object]:
    return {
        "command": shlex.join(program.command),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": _SETTLED_S,
        "startretries": _TRIES,
        "stopsignal": "TERM",
        "stopwaitsecs": _STOPS_WITHIN_S,
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": logs / f"{program.name}.log",
        "stdout_logfile_maxbytes": LOG_BYTES,
        "stdout_logfile_backups": LOG_BACKUPS,
    }


def _section(name: str, values: Mapping[str, object]) -> str:
    return f"[{name}]\n" + "".join(
        f"{key}={str(value).replace('%', '%%')}\n" for key, value in values.items()
    )


class Supervisor:
    """Client of the supervisord behind a socket."""

    def __init__(self, socket: Path) -> None:
        self._server: Any = xmlrpc.client.ServerProxy(
            "http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{socket}")
        )

    def answers(self) -> bool:
        try:
            return bool(self._server.supervisor.getState()["statename"] == "RUNNING")
        except _SILENT:
            return False

    def running(self) -> list[Running]:
        """Lists what it runs; nothing where it does not answer, or ends while it is asked."""
        try:
            known = self._server.supervisor.getAllProcessInfo()
        except _SILENT:
            return []
        return [Running(info["name"], info["statename"], info["pid"] or None) for info in known]

    def start(self, program: str) -> None:
        """Starts a program, unless it runs."""
        with _tolerating(Faults.ALREADY_STARTED):
            self._server.supervisor.startProcess(self._full(program), False)

    def stop(self, program: str) -> None:
        """Ends a program and returns when it has ended; after its grace it is killed."""
        with _tolerating(Faults.NOT_RUNNING):
            self._server.supervisor.stopProcess(self._full(program), True)

    def shut_down(self) -> None:
        """Asks for the end; services, then Triton and Envoy, then Kafka end after it returns."""
        self._server.supervisor.shutdown()

    def _full(self, program: str) -> str:
        everything = self._server.supervisor.getAllProcessInfo()
        return next((f"{info['group']}:{program}" for info in everything if info["name"] == program), program)


@contextmanager
def _tolerating(fault: int) -> Iterator[None]:
    try:
        yield
    except xmlrpc.client.Fault as error:
        if error.faultCode != fault:
            raise
