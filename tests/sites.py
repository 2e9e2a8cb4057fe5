"""Sites beside the embedded stack, each a process of its own with a wire to the hub that a test may
cut, and what programs beside a site ask of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
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
def joined(stack: StackUnderTest, name: str, wire: Wire, folder: Path) -> Iterator[SiteUnderTest]:
    """A site that has joined over the wire and serves the session's pipeline, its disk in `folder`."""
    made = run_penstock(stack, "sites", "enroll", name, "--json")
    assert made.returncode == 0, made.stderr
    token = replace(Token.read(json.loads(made.stdout)["token"]), hub=wire.address)
    with SiteUnderTest(folder / name) as site:
        site.join(str(token))
        site.start()
        serves(site)
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
