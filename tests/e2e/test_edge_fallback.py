"""A site that has not got the promoted version yet answers through the platform, and says so; each answer
has one record. A line that is cut soon costs nobody any time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asking
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from census import PIPELINE, Served, infer, model_fields, tensors
from sites import WITHIN_S, ask, enrolled, messages, serves

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.topics import predictions_topic
from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.testing.site import SiteUnderTest
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.testing.wire import Wire

pytestmark = pytest.mark.stack

SITE = "shop-9"
ROWS = 6


@pytest.fixture
def wire(stack: StackUnderTest) -> Iterator[Wire]:
    with Wire(to=stack.stack.file.ports["sites"]) as wire:
        yield wire


@pytest.fixture
def site(served: Served, stack: StackUnderTest, wire: Wire, tmp_path: Path) -> Iterator[SiteUnderTest]:
    """A site with no room for a package: a file lies where its folder should."""
    with enrolled(stack, SITE, wire, tmp_path) as site:
        blocked(site).touch()
        site.start()
        yield site


def blocked(site: SiteUnderTest) -> Path:
    return site.folder / "packages"


def by_fields(site: SiteUnderTest, event: dict[str, object]) -> inference_pb2.PredictResponse:
    fields = inference_pb2.Fields()
    for name, value in event.items():
        if isinstance(value, str):
            fields.fields[name].text = value
        elif value is not None:
            fields.fields[name].number = float(value)  # type: ignore[arg-type]
    with grpc.insecure_channel(site.endpoint) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return stub.Predict(inference_pb2.PredictRequest(pipeline=PIPELINE, fields=fields), timeout=10)


def refused(site: SiteUnderTest, within: float) -> tuple[PenstockError, float]:
    """Error that a caller is told, and after how many seconds."""
    began = time.monotonic()
    with grpc.insecure_channel(site.endpoint) as channel, pytest.raises(grpc.RpcError) as told:
        inference_pb2_grpc.InferenceServiceStub(channel).Predict(
            inference_pb2.PredictRequest(pipeline=PIPELINE, fields=inference_pb2.Fields()), timeout=within
        )
    return error_of_call(told.value), time.monotonic() - began


def test_a_site_without_the_version_answers_through_the_platform_once_recorded(
    served: Served, site: SiteUnderTest, wire: Wire
) -> None:
    numbers, strings = tensors(served, served.events[:ROWS])
    answered, ids = until(
        lambda: ask(site, numbers, strings), within=WITHIN_S, despite=grpc.RpcError, what="it answers"
    )
    assert np.abs(answered - infer(served, numbers, strings)).max() <= 1e-6
    over_http, http_id = asking.over_http(site.http, PIPELINE, numbers[:1], strings[:1])
    assert np.abs(over_http - answered[:1]).max() <= 1e-6
    with triton.InferenceServerClient(site.endpoint) as client:
        response = client.infer(PIPELINE, asking.inputs(numbers[:1], strings[:1])).get_response()
    assert response.parameters["served_by"].string_param == "cloud"
    assert response.parameters["degraded"].string_param == "no_version"
    named = by_fields(site, model_fields(served, served.events[0]))
    assert (named.served_by, named.degraded, named.digest) == ("cloud", "no_version", served.version.digest)
    assert 0 <= named.confidence <= 1

    wire.hang()
    for _ in range(3):
        told, took_s = refused(site, within=0.6)
        assert took_s < 2
    told, took_s = refused(site, within=5)
    assert isinstance(told, Unavailable)
    assert "the platform is not asked" in told.message
    assert took_s < 1
    assert fallback_state(site) == (ROWS + 3, "open")
    wire.mend()

    site.kill()
    blocked(site).unlink()
    site.start()
    serves(site)
    _, own = ask(site, numbers[:1], strings[:1])

    by_site = [*ids, http_id, named.prediction]
    records = until(lambda: recorded(served, {*by_site, *own}), within=WITHIN_S, what="all are recorded")
    assert Counter(str(one["id"]) for one in records) == Counter([*by_site, *own])
    for one in records:
        assert one["site"] == SITE
        assert one["served_by"] == ("site" if one["id"] in own else "cloud")
        assert one.get("degraded") == (None if one["id"] in own else "no_version")
        assert one["for_labelling"] == (min(one["confidence"]) < 0.5)  # type: ignore[call-overload]
        assert one["protocol"] == ("http" if one["id"] == http_id else "grpc")
    kept = served.client.predictions.recorded(PIPELINE, for_labelling=True, limit=1000)
    marked = {one["id"] for one in kept}
    assert marked >= {one["id"] for one in records if one["for_labelling"]}
    assert not marked & {one["id"] for one in records if not one["for_labelling"]}
    first, last = (next(one for one in records if one["id"] == said) for said in (ids[0], own[0]))
    assert first["inputs"] == last["inputs"]
    assert first["confidence"] == pytest.approx(last["confidence"])
    assert first["confidence"] == pytest.approx([named.confidence])


def fallback_state(site: SiteUnderTest) -> tuple[int, str]:
    """Answers of the platform, and the breaker's state."""
    with grpc.insecure_channel(site.endpoint) as channel:
        status = site_pb2_grpc.SiteServiceStub(channel).GetStatus(site_pb2.GetStatusRequest(), timeout=10)
    (said,) = (one for one in status.pipelines if one.pipeline == PIPELINE)
    return said.answered_by_cloud, said.breaker


def recorded(served: Served, ids: set[str]) -> list[dict[str, object]]:
    """Records of these predictions; none until each of them has one."""
    found = [one for one in messages(served, predictions_topic(PIPELINE)) if one["id"] in ids]
    return found if {one["id"] for one in found} == ids else []
