"""The service against the real broker: what a user is promised, also after `kill -9`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from feature_world import NOW, World, application, numbers, outcome
from lending import credit_risk

from penstock.contracts.events import TrainingRunFailed, TrainingRunRequested
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.packages import facts
from penstock.packages.facts import verify_fact
from penstock.testing.broker import Kafka
from penstock.testing.files import below
from penstock.testing.letters import letters
from penstock.testing.wait import until

pytestmark = pytest.mark.kafka

P = "credit-risk"


@pytest.fixture(scope="module")
def world(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(kafka, tmp_path_factory.mktemp("feature-store"))
    world.apply(credit_risk())
    world.start()
    try:
        world.knows(P)
        yield world
    finally:
        world.close()


def test_the_newest_event_is_online_however_late_others_come(world: World) -> None:
    before = world.positions(P)["applications"].rows
    world.ingest(
        P,
        "applications",
        [application("on-1", 5, 10.0), application("on-1", 50, 99.0), application("on-1", 3, None)],
    )
    world.ingest(
        P,
        "applications",
        [application("on-1", 4, 98.0), application("on-2", 60 * 24 * 40), application("on-1", 3, 11.0)],
    )
    world.holds(P, "applications", before + 6)
    fields = ["applications.income", "applications.purpose", "outcomes.defaulted"]

    def answer() -> list[pb.EntityFeatures] | None:
        found = world.online(P, ["on-1", "on-2", "nobody"], fields)
        return (
            found
            if found[1].status == pb.EntityFeatures.STATUS_EXPIRED and numbers(found[0])[0] == 11.0
            else None
        )

    one, two, nobody = until(answer, what="all events are online")
    assert numbers(one) == [11.0, "car", None]
    assert one.events["applications"] == "applications-0-5"
    assert numbers(two) == [None, None, None]
    assert nobody.status == pb.EntityFeatures.STATUS_NOT_FOUND


def test_a_wrong_name_gets_the_right_one(world: World) -> None:
    for request, code, sentence in (
        (
            pb.GetOnlineFeaturesRequest(pipeline="credit-risc"),
            grpc.StatusCode.NOT_FOUND,
            "Did you mean `credit-risk`?",
        ),
        (
            pb.GetOnlineFeaturesRequest(pipeline=P, entities=["a"], fields=["applications.incom"]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Did you mean `applications.income`?",
        ),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            world.stub.GetOnlineFeatures(request, timeout=10)
        assert refused.value.code() == code
        assert sentence in refused.value.details()


def test_a_training_set_waits_for_what_was_published_before(world: World) -> None:
    """Records in an open transaction, rejects at the end, a partition without any record."""
    entities = [f"ts-{number}" for number in range(120)]
    world.ingest(
        P, "applications", [application(entity, 100, float(number)) for number, entity in enumerate(entities)]
    )
    after = world.ingest(
        P,
        "outcomes",
        [outcome(entity, number % 3 == 0) for number, entity in enumerate(entities)] + [None] * 5,
        decide=False,
    )
    world.flush()
    below = {"outcomes": {0: after, 1: 4}}
    with pytest.raises(grpc.RpcError) as late:
        world.training_set(P, "early", below=below, timeout=5)
    world.decide(P, "outcomes", 0, after)  # before anything may fail: the next test begins another
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "ingest has not answered all events below 125" in late.value.details()
    world.ingest(P, "outcomes", [None] * 4, partition=1)
    made = world.training_set(P, "first", below=below)
    assert sum(made.rows.values()) == 120
    assert world.training_set(P, "first") == made
    verify_fact(made, world.keys.trust())
    assert world.training_set(P, "second").fingerprint == made.fingerprint
    with pytest.raises(grpc.RpcError, match="no pipeline"):
        world.training_set("other", "third")


def test_a_record_can_be_asked_for(world: World) -> None:
    began = int(time.time() * 1000)
    world.ingest(P, "applications", [application("asked", 7, 3.5, id="ask-me", traceparent="00-aa-bb-01")])
    request = pb.GetRecordsRequest(pipeline=P, source="applications", id="ask-me")
    (record,) = until(
        lambda: world.stub.GetRecords(request, timeout=10).records,
        what="the record is in the lake",
    )
    assert began <= record.ingested.ToMilliseconds() <= time.time() * 1000
    assert (record.entity, record.traceparent, record.fields["income"].number) == (
        "asked",
        "00-aa-bb-01",
        3.5,
    )
    assert world.stub.GetRecords(
        pb.GetRecordsRequest(pipeline=P, source="applications", entity="asked"), timeout=10
    ).records == [record]


def test_an_erased_entity_leaves_no_byte(world: World) -> None:
    name = "Hedy-Lamarr-1914"
    others = [f"er-{number}" for number in range(80)]
    world.ingest(
        P, "applications", [application(entity, 100) for entity in [*others, name]] + [application(name, 90)]
    )
    after = world.ingest(
        P, "outcomes", [outcome(entity, number % 2 == 0) for number, entity in enumerate([*others, name])]
    )
    before = world.training_set(P, "with", below={"outcomes": {0: after}})
    until(lambda: world.online(P, [name])[0].status == pb.EntityFeatures.STATUS_FOUND, what="online")
    assert holders(world, name)
    erased = world.stub.EraseEntity(pb.EraseEntityRequest(pipeline=P, entity=name), timeout=60)
    assert (erased.lake_rows, erased.online) == (3, True)
    assert holders(world, name) == []
    assert world.online(P, [name])[0].status == pb.EntityFeatures.STATUS_NOT_FOUND
    now = world.training_set(P, "with")
    assert now.fingerprint == before.fingerprint
    assert sum(now.left.values()) == 1
    assert sum(now.rows.values()) == sum(before.rows.values()) - 1
    assert (
        world.stub.EraseEntity(pb.EraseEntityRequest(pipeline=P, entity=name), timeout=60)
        == pb.EraseEntityResponse()
    )


def holders(world: World, name: str) -> list[Path]:
    """Files that hold the name in clear or in Feast's encoding; column chunks are compressed, so
    Parquet is read as well.
    """

    def holds(path: Path) -> bool:
        with suppress(FileNotFoundError):
            if path.suffix == ".parquet":
                return any(name in map(str, row.values()) for row in pq.read_table(path).to_pylist())
            return name.encode() in path.read_bytes()
        return False

    return [path for path in below(world.home) if path.is_file() and path.suffix != ".log" and holds(path)]


def test_every_so_many_labels_there_is_a_run(world: World) -> None:
    pipeline = "watched"
    spec = credit_risk(pipeline=pipeline, training={"trigger": {"new_labels": 10}})
    world.apply(spec)
    world.knows(pipeline)
    with world.events("training-runs.v1") as seen:

        def requests() -> list[TrainingRunRequested]:
            return [
                event
                for event in seen.listen()
                if isinstance(event, TrainingRunRequested) and event.pipeline == pipeline
            ]  # type: ignore[attr-defined]

        def labels(count: int) -> None:
            world.ingest(
                pipeline,
                "outcomes",
                [outcome(f"w{number}", True) for number in range(count)] + [outcome("none", None)],
            )

        labels(9)
        world.holds(pipeline, "outcomes", 10)
        assert requests() == []
        labels(1)
        (first,) = until(requests, what="a run is requested")
        assert (first.reason, first.pipeline_number) == ("new_labels", 1)
        labels(12)
        world.holds(pipeline, "outcomes", 25)
        assert len(requests()) == 1
        failed = TrainingRunFailed(
            run_id=first.run_id, pipeline=pipeline, kind="conflict", reason="", remedy="", failed_at=NOW
        )
        world.tell(facts.signed(failed, world.keys.signer("trainer")))
        until(lambda: len(requests()) == 2, what="labels that came during the run count for the next")


def test_killing_it_loses_and_doubles_nothing(world: World) -> None:
    chance = random.Random(7)
    before = world.positions(P)["applications"].rows
    published = 0
    for _ in range(2):
        deadline = time.monotonic() + chance.uniform(0.3, 1.5)
        while time.monotonic() < deadline:
            rows = [application(f"k-{published + number}", 1) for number in range(200)]
            world.ingest(P, "applications", rows, partition=chance.randrange(2))
            published += len(rows)
        world.kill()
        world.start()
    world.ingest(P, "applications", [application("aborted", 1)], commit=False)
    world.holds(P, "applications", before + published)
    ids = [record.id for entity in ("k-0", f"k-{published - 1}") for record in records(world, entity)]
    assert len(ids) == len(set(ids)) == 2
    assert records(world, "aborted") == []


def records(world: World, entity: str) -> list[pb.Record]:
    return list(
        world.stub.GetRecords(
            pb.GetRecordsRequest(pipeline=P, source="applications", entity=entity), timeout=10
        ).records
    )


def test_the_online_store_is_made_again_from_the_lake(world: World) -> None:
    world.ingest(P, "applications", [application("again", 3, 42.0)])
    until(
        lambda: world.online(P, ["again"])[0].status == pb.EntityFeatures.STATUS_FOUND,
        what="online",
    )
    assert world.stop() == 0
    for path in (world.home / "feature_store" / "feast" / P).glob("online.db*"):
        path.unlink()
    world.start()
    world.knows(P)
    found = until(
        lambda: (
            (one := world.online(P, ["again"], ["applications.income"])[0]).status
            == pb.EntityFeatures.STATUS_FOUND
            and one
        ),
        what="online again",
    )
    assert numbers(found) == [42.0]


def test_a_field_that_comes_later_is_used_at_once(world: World) -> None:
    spec = credit_risk().model_dump(mode="json", by_alias=True)
    spec["sources"]["applications"]["fields"]["savings"] = {"type": "number"}
    world.apply(type(credit_risk()).model_validate(spec), number=2)
    row = application("saver", 1)
    row["fields"] = row["fields"] | {"savings": 5.0}
    world.ingest(P, "applications", [row])

    def savings() -> list[Any] | None:
        try:
            return numbers(world.online(P, ["saver"], ["applications.savings"])[0])
        except grpc.RpcError:
            return None

    until(lambda: savings() == [5.0], what="the new field is online")
    assert numbers(world.online(P, ["again"], ["applications.savings", "applications.income"])[0]) == [
        None,
        42.0,
    ]


def test_records_that_are_none_are_left_out_with_place_and_reason(world: World) -> None:
    before = world.positions(P)["applications"].rows
    world.ingest(P, "applications", [application("odd-1", 5)])
    for value in (b"rubbish", b'{"id": "1"}', b"[]", b"", None):
        world.produce("credit-risk.applications.records.v1", value)
    world.ingest(P, "applications", [application("odd-2", 5)])
    world.holds(P, "applications", before + 2)
    fields = ["applications.income"]
    until(
        lambda: [numbers(found) for found in world.online(P, ["odd-1", "odd-2"], fields)] == [[1.0], [1.0]],
        what="both are online",
    )
    found = letters(world.settings, "credit-risk.applications.records.v1.penstock.feature_store.records.dlq")
    assert [letter.headers["dlq-partition"] for letter in found] == ["0"] * 5
    assert all("no record" in letter.headers["dlq-reason"] and not letter.value for letter in found)
