"""State of each program: supervisord says whether it runs, the program itself what it waits for."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc

from penstock.contracts.errors import NotFound
from penstock.stack import stackfile
from penstock.stack.kafka import topics
from penstock.stack.programs import ENVOY, KAFKA, PARTS, TRITON
from penstock.stack.stackfile import StackFile
from penstock.stack.supervisor import Running, Supervisor
from penstock.status.v1 import status_pb2, status_pb2_grpc

PATIENCE_S = 2.0
"""Longest wait for a program's answer, in seconds; all are asked at once."""


class State(StrEnum):
    READY = "ready"
    WAITING = "waiting"
    """Runs and says what it waits for, or does not answer yet."""
    STARTING = "starting"
    """Starts soon, perhaps again after it died."""
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ProgramStatus:
    program: str
    state: State
    pid: int | None
    address: str
    waits_for: tuple[str, ...] = ()
    """Things that it waits for, each with the reason: `kafka (refused, 3 tries)`."""
    facts: tuple[str, ...] = ()
    """Short texts of the program about itself: `2 pipelines`."""


@dataclass(frozen=True)
class _Answer:
    ready: bool
    waits_for: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def status(home: Path) -> list[ProgramStatus]:
    """Asks all programs of the stack at `home`, parts first; empty when it is down. Takes at most
    about 2 s.
    """
    try:
        stack = StackFile.read(home)
    except NotFound:
        return []
    supervisor = Supervisor(stackfile.socket(stack.home))
    running = {one.program: one for one in supervisor.running()} if supervisor.answers() else {}
    names = [*PARTS, *stack.services]
    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(lambda name: _status(stack, name, running.get(name)), names))


def _status(stack: StackFile, program: str, running: Running | None) -> ProgramStatus:
    address = _address(stack, program)
    if running is None or running.pid is None:
        state, why = _ENDED.get(running.state if running else "STOPPED", _STOPPED)
        return ProgramStatus(
            program, state, None, address, tuple(reason.format(program=program) for reason in why)
        )
    if running.state == "STOPPING":
        return ProgramStatus(program, State.STOPPING, running.pid, address)
    answer = _ASK.get(program, _ask_service)(address, stack)
    return ProgramStatus(
        program,
        State.READY if answer.ready else State.WAITING,
        running.pid,
        address,
        answer.waits_for,
        answer.facts,
    )


_STOPPED: tuple[State, tuple[str, ...]] = (State.STOPPED, ())
# State of a program without a process, and what it waits for, by supervisord's word for it.
_ENDED: dict[str, tuple[State, tuple[str, ...]]] = {
    "EXITED": (State.STARTING, ("its own start: it has just ended",)),
    "BACKOFF": (State.STARTING, ("its own start: it ended at once, see `penstock logs {program}`",)),
    "FATAL": (State.STOPPED, ("`penstock up`: it was given up, see `penstock logs {program}`",)),
}


def _address(stack: StackFile, program: str) -> str:
    parts = {KAFKA: stack.kafka, TRITON: stack.triton_grpc, ENVOY: stack.endpoint}
    return parts.get(program) or stack.services[program]


def _ask_kafka(address: str, stack: StackFile) -> _Answer:
    found = topics(address, PATIENCE_S)
    if found is None:
        return _Answer(False, ("its own start",))
    return _Answer(True, facts=(f"{len(found)} topics",))


def _ask_triton(address: str, stack: StackFile) -> _Answer:
    try:
        models = json.loads(_http(stack.triton_http, "POST", "/v2/repository/index", b'{"ready": true}'))
    except (OSError, http.client.HTTPException, ValueError):
        return _Answer(False, ("its own start",))
    served = sorted(f"{model['name']} {model.get('version', '')}".strip() for model in models)
    return _Answer(True, facts=(", ".join(served) or "no model",))


def _ask_envoy(address: str, stack: StackFile) -> _Answer:
    try:
        live = _http(stack.door_admin, "GET", "/ready").strip() == b"LIVE"
    except (OSError, http.client.HTTPException):
        live = False
    return _Answer(live, () if live else ("its own start",))


def _ask_service(address: str, stack: StackFile) -> _Answer:
    with grpc.insecure_channel(address) as channel:
        try:
            said: Any = (
                status_pb2_grpc.StatusServiceStub(channel)
                .GetStatus(status_pb2.GetStatusRequest(), timeout=PATIENCE_S)
                .services[0]
            )
        except grpc.RpcError:
            return _Answer(False, ("its own start",))
        waits = tuple(f"{one.thing} ({one.why})" if one.why else one.thing for one in said.waiting)
        return _Answer(said.ready, waits, tuple(said.facts))


_ASK: dict[str, Callable[[str, StackFile], _Answer]] = {
    KAFKA: _ask_kafka,
    TRITON: _ask_triton,
    ENVOY: _ask_envoy,
}


def _http(address: str, method: str, path: str, body: bytes | None = None) -> bytes:
    """Calls a program over HTTP and returns the body of a 200. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{method} {path}: {response.status}")
        return response.read()
    finally:
        connection.close()
