"""Each answer of a site has a record of the platform's form; a full spool drops, or refuses answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.packages.format import open_package
from penstock.packages.keys import Keys
from penstock.serving.model import Model
from penstock.serving.protocol.tensors import InferMessage, Tensor
from penstock.testing import lending, packages
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.lane_status import lane_status
from penstock_edge_gateway.site.recorder import Recorder
from penstock_edge_gateway.site.spool import Gap, Spool

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = InferMessage("loans", "1", {"numbers": Tensor((1, 1), [3000.0]), "strings": Tensor((1, 1), ["car"])})
ANSWERED = InferMessage(
    "loans", "1", {"probabilities": Tensor((1, 2), [0.25, 0.75]), "decision": Tensor((1, 1), ["true"])}
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The same model, of a pipeline that requires records and of one that does not."""
    found, folder = {}, tmp_path_factory.mktemp("models")
    keys = Keys(folder / "keys")
    keys.ensure()
    for record in ("required", "best_effort"):
        package = folder / record
        digest = packages.write_package(package, pipeline=lending.pipeline(serving={"record": record}))
        verdict = packages.verdict(keys, digest)
        promoted = packages.promotion(keys, packages.version(digest, keys), verdict, generation=3)
        found[record] = Model(promoted, open_package(package))
    return found


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    with Spool(tmp_path / "predictions.db", durable=False, size=200_000) as spool:
        yield Lane("predictions", spool)


def nobodys(name: str) -> Pipeline:
    raise NotFound(f"no pipeline {name}")


def recorder(lane: Lane) -> Recorder:
    return Recorder("branch-1", lane, pipelines=nobodys, age=timedelta(days=30), clock=lambda: NOW)


def record(recorder: Recorder, model: Model, number: int = 0, request: InferMessage = ASKED) -> None:
    recorder.record(model, request, ANSWERED, took_ms=1.5, prediction=f"p{number}", protocol="grpc")


def test_a_record_says_what_was_asked_answered_by_whom_and_where(
    lane: Lane, models: dict[str, Model]
) -> None:
    record(recorder(lane), models["required"])
    (kept,) = lane.spool.read(10, 1 << 20).entries
    assert not isinstance(kept, Gap)
    said = TypeAdapter(Prediction).validate_json(kept.body)
    assert said == {
        "id": "p0",
        "pipeline": "loans",
        "digest": models["required"].digest,
        "generation": 3,
        "time": "2026-03-01T12:00:00.000000Z",
        "milliseconds": 1.5,
        "protocol": "grpc",
        "status": "OK",
        "traceparent": None,
        "rows": 1,
        "inputs": {"income": [3000.0], "purpose": ["car"]},
        "probabilities": [[0.25, 0.75]],
        "values": None,
        "decisions": ["true"],
        "undecoded": None,
        "site": "branch-1",
        "served_by": "site",
        "confidence": [0.5],
    }


def test_a_record_that_is_near_the_edge_is_marked_for_labelling(lane: Lane, models: dict[str, Model]) -> None:
    """By the file that was applied last."""
    files = {"loans": lending.pipeline(edge={"label_below": 0.6})}
    records = Recorder(
        "branch-1", lane, pipelines=files.__getitem__, age=timedelta(days=30), clock=lambda: NOW
    )
    record(records, models["best_effort"])
    files["loans"] = lending.pipeline(edge={"label_below": 0.4})
    record(records, models["best_effort"])
    kept = [json.loads(one.body) for one in lane.spool.read(10, 1 << 20).entries if not isinstance(one, Gap)]
    assert [one["for_labelling"] for one in kept] == [True, False]


def test_features_that_may_not_leave_are_missing_in_the_record(lane: Lane, models: dict[str, Model]) -> None:
    files = {"loans": lending.pipeline(edge={"may_leave": ["purpose", "defaulted"]})}
    records = Recorder(
        "branch-1", lane, pipelines=files.__getitem__, age=timedelta(days=30), clock=lambda: NOW
    )
    record(records, models["best_effort"])
    (kept,) = lane.spool.read(10, 1 << 20).entries
    assert not isinstance(kept, Gap)
    said = json.loads(kept.body)
    assert said["inputs"] == {"income": [None], "purpose": ["car"]}
    assert (said["rows"], said["decisions"]) == (1, ["true"])
    files["loans"] = lending.pipeline(edge={"may_leave": ["income", "defaulted"]})  # applied anew
    record(records, models["best_effort"])
    _, later = lane.spool.read(10, 1 << 20).entries
    assert not isinstance(later, Gap)
    assert json.loads(later.body)["inputs"] == {"income": [3000.0], "purpose": [None]}


def test_a_full_spool_drops_the_oldest_and_says_how_many(lane: Lane, models: dict[str, Model]) -> None:
    records = recorder(lane)
    for number in range(1000):
        record(records, models["best_effort"], number)
    batch = lane.spool.read(10_000, 1 << 30)
    gap, *kept = batch.entries
    assert isinstance(gap, Gap)
    assert gap.reason == "full"
    assert [json.loads(one.body)["id"] for one in kept if not isinstance(one, Gap)] == [
        f"p{number}" for number in range(gap.records, 1000)
    ]
    assert lane.lost == 0


def test_who_must_be_recorded_gets_no_answer_without_room(lane: Lane, models: dict[str, Model]) -> None:
    records = recorder(lane)

    def fill() -> None:
        for number in range(1000):
            record(records, models["required"], number)

    with pytest.raises(Unavailable, match="loans answers only what is recorded"):
        fill()
    assert not any(isinstance(one, Gap) for one in lane.spool.read(10_000, 1 << 30).entries)
    record(records, models["best_effort"])  # is answered, and has no record
    assert lane_status(lane).dropped == 1
    lane.spool.acknowledge(100)
    record(records, models["required"])
