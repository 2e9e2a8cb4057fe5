"""Sites beside the embedded stack, each a process of its own with a wire to the hub that a test may
cut, and what programs beside a site ask of it.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import asking
import grpc
import numpy as np
import orjson
import tritonclient.grpc as triton
from census import PIPELINE, Event, Served, run_penstock
from tritonclient.utils import InferenceServerException

from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc
from penstock.testing.site import SiteUnderTest
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.testing.wire import Wire
from penstock_edge_gateway.token import Token

WITHIN_S = 120.0


@contextmanager
def joined(
    stack: StackUnderTest, name: str, wire: Wire, folder: Path, *, patience_s: float | None = None
) -> Iterator[SiteUnderTest]:
    """A site that has joined over the wire and serves the session's pipeline, its disk in `folder`.
    `patience_s`: as `SiteUnderTest` has it.
    """
    with enrolled(stack, name, wire, folder, patience_s=patience_s) as site:
        site.start()
        serves(site)
        yield site


@contextmanager
def enrolled(
    stack: StackUnderTest, name: str, wire: Wire, folder: Path, *, patience_s: float | None = None
) -> Iterator[SiteUnderTest]:
    """A site that has joined over the wire and was not started yet, its disk in `folder`."""
    made = run_penstock(stack, "sites", "enroll", name, "--json")
    assert made.returncode == 0, made.stderr
    token = replace(Token.read(json.loads(made.stdout)["token"]), hub=wire.address)
    with SiteUnderTest(folder / name, patience_s=patience_s) as site:
        site.join(str(token))
        yield site


def serves(site: SiteUnderTest) -> None:
    """Waits until the site answers for the session's pipeline."""

    def ready() -> bool:
        with triton.InferenceServerClient(site.endpoint) as client:
            try:
                return bool(client.is_model_ready(PIPELINE))
            except InferenceServerException:
                return False

    until(ready, within=WITHIN_S, what=f"the site serves {PIPELINE}: {site.log}")


def knows(site: SiteUnderTest, pipeline: str) -> str | None:
    """The pipeline's file as JSON; None where the site has none."""
    request = site_pb2.GetPipelineRequest(pipeline=pipeline)
    with grpc.insecure_channel(site.endpoint) as channel:
        try:
            answer = site_pb2_grpc.SiteServiceStub(channel).GetPipeline(request, timeout=5)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None
        return str(answer.pipeline_json)


def waits_for(site: SiteUnderTest, pipeline: str) -> None:
    """Waits until the site takes events of the pipeline."""
    until(lambda: knows(site, pipeline), despite=grpc.RpcError, what=f"the site takes events of {pipeline}")


def ask(site: SiteUnderTest, numbers: np.ndarray, strings: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Probabilities, a row a call, and the ids of the answers."""
    with grpc.insecure_channel(site.endpoint) as channel:
        rows = (slice(at, at + 1) for at in range(len(numbers)))
        answers = [asking.over_grpc(channel, PIPELINE, numbers[row], strings[row]) for row in rows]
    return np.concatenate([found for found, _ in answers]), [prediction for _, prediction in answers]


def publish(site: SiteUnderTest, pipeline: str, events: Sequence[Event]) -> None:
    """Publishes events of the source `people`; the site takes them all."""
    lines = [orjson.dumps(event, default=str) for event in events]
    request = site_pb2.PublishRequest(pipeline=pipeline, source="people", events=lines)
    with grpc.insecure_channel(site.endpoint) as channel:
        answer = site_pb2_grpc.SiteServiceStub(channel).Publish(request, timeout=30)
    assert (answer.accepted, list(answer.rejected)) == (len(events), [])


def messages(served: Served, topic: str) -> list[dict[str, object]]:
    """Objects among the messages of a topic; events that other tests publish may be no object."""
    found = []
    for message in served.client.events.read(topic):
        with suppress(orjson.JSONDecodeError):
            found.append(orjson.loads(message.value() or b""))
    return [one for one in found if isinstance(one, dict)]


def status(site: SiteUnderTest) -> site_pb2.SiteStatus:
    with grpc.insecure_channel(site.endpoint) as channel:
        return site_pb2_grpc.SiteServiceStub(channel).GetStatus(site_pb2.GetStatusRequest(), timeout=5)


@dataclass
class SiteLoad:
    """Events by their ids, all that were sent and those that the site took; ids of its answers."""

    sent: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


@contextmanager
def loading(
    site: SiteUnderTest,
    pipeline: str,
    events: Sequence[Event],
    row: tuple[np.ndarray, np.ndarray],
    *,
    pause_s: float = 0.05,
) -> Iterator[SiteLoad]:
    """Within the block the site is sent five events and asked for a prediction, and so again after each
    `pause_s`: some 100 and 20 a second. None is sent again.
    """
    load, stop, numbers = SiteLoad(), threading.Event(), itertools.count()

    def publishing() -> None:
        made = [
            event | {"event_id": f"{pipeline}-{number}", "person_id": f"{pipeline}-{number % 20}"}
            for event, number in zip(events[:5], numbers, strict=False)
        ]
        ids = [str(one["event_id"]) for one in made]
        load.sent += ids
        publish(site, pipeline, made)
        load.taken += ids

    def predicting() -> None:
        load.answered += ask(site, *row)[1]

    def again(call: Callable[[], None]) -> None:
        while not stop.wait(pause_s):
            try:
                call()
            except grpc.RpcError as error:
                load.failed[error.code().name] += 1

    threads = [threading.Thread(target=again, args=[call]) for call in (publishing, predicting)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
