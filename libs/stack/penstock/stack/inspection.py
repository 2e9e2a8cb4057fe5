"""State of each program: supervisord says whether it runs, the program itself what it waits for."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc

from penstock.contracts.errors import NotFound
from penstock.runtime.local_http import ask
from penstock.stack import stackfile
from penstock.stack.kafka import topics
from penstock.stack.programs import ENVOY, GATEWAY, KAFKA, PARTS, TRITON
from penstock.stack.stackfile import StackFile
from penstock.stack.supervisor import Running, Supervisor
from penstock.status.v1 import status_pb2, status_pb2_grpc

# Longest wait for a program's answer, in seconds; all are asked at once.
PATIENCE_S = 2.0


class State(StrEnum):
    READY = "ready"
    WAITING = "waiting"  # runs and says what it waits for, or does not answer yet
    STARTING = "starting"  # starts soon, perhaps again after it died
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ProgramStatus:
    """State of a program; what it `waits_for`, each with the reason, as in `kafka (refused, 3 tries)`;
    and `facts`, its short texts about itself, as in `2 pipelines`.
    """

    program: str
    state: State
    pid: int | None
    address: str
    waits_for: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def status(home: Path, only: Collection[str] | None = None) -> list[ProgramStatus]:
    """Asks all programs of the stack at `home`, or `only` these, parts first; empty when it is down.
    Takes at most about 2 s.
    """
    try:
        stack = StackFile.read(home)
    except NotFound:
        return []
    running = {one.program: one for one in Supervisor(stackfile.socket(stack.home)).running()}
    names = [name for name in (*PARTS, *stack.services) if only is None or name in only]
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        return list(pool.map(lambda name: _status(stack, name, running.get(name)), names))


def _status(stack: StackFile, program: str, running: Running | None) -> ProgramStatus:
    parts = {
        KAFKA: stack.kafka,
        TRITON: stack.triton_grpc,
        GATEWAY: stack.gateway_http,
        ENVOY: stack.endpoint,
    }
    address = parts.get(program) or stack.services[program]
    if running is None or running.pid is None:
        state, waits_for = _ENDED.get(running.state if running else "STOPPED", (State.STOPPED, ()))
        waits_for = tuple(reason.format(program=program) for reason in waits_for)
        return ProgramStatus(program, state, None, address, waits_for)
    if running.state == "STOPPING":
        return ProgramStatus(program, State.STOPPING, running.pid, address)
    try:
        waits_for, facts = _ASK.get(program, _ask_service)(address, stack)
    except (OSError, http.client.HTTPException, ValueError, grpc.RpcError):
        waits_for, facts = _NO_ANSWER
    state = State.WAITING if waits_for else State.READY
    return ProgramStatus(program, state, running.pid, address, waits_for, facts)


# State of a program without a process, and what it waits for, by supervisord's word for it.
_ENDED: dict[str, tuple[State, tuple[str, ...]]] = {
    "EXITED": (State.STARTING, ("its own start: it has just ended",)),
    "BACKOFF": (State.STARTING, ("its own start: it ended at once, see `penstock logs {program}`",)),
    "FATAL": (State.STOPPED, ("`penstock up`: it was given up, see `penstock logs {program}`",)),
}

_Answer = tuple[tuple[str, ...], tuple[str, ...]]  # what a program waits for, and its facts
_NO_ANSWER: _Answer = ("its own start",), ()


def _ask_kafka(address: str, stack: StackFile) -> _Answer:
    found = topics(address, PATIENCE_S)
    return _NO_ANSWER if found is None else ((), (f"{len(found)} topics",))


def _ask_triton(address: str, stack: StackFile) -> _Answer:
    from tritonclient.grpc import service_pb2, service_pb2_grpc  # a fifth of a second, for this verb alone

    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = service_pb2.RepositoryIndexRequest(ready=True)
        models = stub.RepositoryIndex(asked, timeout=PATIENCE_S).models
    served = sorted(f"{model.name} {model.version}".strip() for model in models)
    return (), (", ".join(served) or "no model",)


def _ask_gateway(address: str, stack: StackFile) -> _Answer:
    ask(address, "GET", "/live", within_s=PATIENCE_S)
    return (), ()


def _ask_envoy(address: str, stack: StackFile) -> _Answer:
    live = ask(stack.door_admin, "GET", "/ready", within_s=PATIENCE_S).strip() == b"LIVE"
    return ((), ()) if live else _NO_ANSWER


def _ask_service(address: str, stack: StackFile) -> _Answer:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = status_pb2_grpc.StatusServiceStub(channel)
        said: Any = stub.GetStatus(status_pb2.GetStatusRequest(), timeout=PATIENCE_S).services[0]
    waits_for = tuple(f"{one.thing} ({one.why})" if one.why else one.thing for one in said.waiting)
    return waits_for, tuple(said.facts)


_ASK: dict[str, Callable[[str, StackFile], _Answer]] = {
    KAFKA: _ask_kafka,
    TRITON: _ask_triton,
    GATEWAY: _ask_gateway,
    ENVOY: _ask_envoy,
}
