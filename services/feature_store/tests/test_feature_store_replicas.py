"""Two replicas on one lake, one database, one Redis and one S3, against the real broker: one owns
the lake, the other stands by.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest
from feature_world import NOW, Replica, World, application, numbers, outcome
from lending import credit_risk
from redis_server import RedisServer

from penstock.contracts.events import TrainingRunFailed, TrainingRunRequested
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.packages import facts
from penstock.testing.broker import Kafka
from penstock.testing.s3 import S3
from penstock.testing.wait import until
from penstock_feature_store import names

pytestmark = [pytest.mark.kafka, pytest.mark.docker]

P = "credit-risk"
INCOME = ["applications.income"]
TAKES_OVER_WITHIN_S = 45
"""The lease of 15 s, and a replica that has to begin on a busy machine."""


class Pair:
    def __init__(self, kafka: Kafka, home: Path, environment: dict[str, str]) -> None:
        self.world = World(kafka, home, environment)
        self.replicas: list[Replica] = [self.world, Replica(self.world.settings, home, environment, name="1")]

    def owner(self, within: float = 90) -> Replica:
        return until(
            lambda: next((one for one in self.replicas if one.owns()), None),
            within=within,
            what="a replica owns the lake",
        )

    def other(self) -> Replica:
        owner = self.owner()
        return next(one for one in self.replicas if one is not owner)

    def close(self) -> None:
        for replica in reversed(self.replicas):
            replica.close()


@pytest.fixture(scope="module")
def pair(
    kafka: Kafka, redis: RedisServer, s3: S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    environment = {
        **s3.environment,
        "PENSTOCK_ARTIFACTS": f"s3://{s3.bucket()}/artifacts",
        "PENSTOCK_FEATURE_STORE__ONLINE_STORE": f"{redis.url}/60",
        "PENSTOCK_FEATURE_STORE__ONLINE_STORE_PASSWORD_FILE": str(redis.password_file),
    }
    pair = Pair(kafka, tmp_path_factory.mktemp("replicas"), environment)
    pair.world.apply(credit_risk())
    for replica in pair.replicas:
        replica.start()
    try:
        pair.owner()
        for replica in pair.replicas:
            replica.knows(P)
            until(lambda of=replica: not of.waits_for(), within=90, what="it is ready")  # type: ignore[misc]
        yield pair
    finally:
        pair.close()


def test_any_replica_answers_everything(pair: Pair) -> None:
    entities = [f"any-{number}" for number in range(90)]
    applied = pair.world.ingest(
        P, "applications", [application(entity, 100, float(number)) for number, entity in enumerate(entities)]
    )
    observed = pair.world.ingest(
        P, "outcomes", [outcome(entity, number % 2 == 0) for number, entity in enumerate(entities)]
    )
    below = {"applications": {0: applied}, "outcomes": {0: observed}}
    standby, owner = pair.other(), pair.owner()
    until(
        lambda: "stands by for replica" in " ".join(standby.status().facts),  # type: ignore[union-attr]
        what="it has seen who owns the lake",
    )
    made = standby.training_set(P, "by-the-other", below=below)
    assert sum(made.rows.values()) == 90
    assert owner.training_set(P, "by-the-other") == made
    until(
        lambda: numbers(standby.online(P, ["any-7"], INCOME)[0]) == [7.0],
        what="the other reads Redis",
    )
    assert standby.positions(P) == owner.positions(P)
    request = pb.GetRecordsRequest(pipeline=P, source="applications", entity="any-3")
    assert standby.stub.GetRecords(request, timeout=10) == owner.stub.GetRecords(request, timeout=10)
    erased = standby.stub.EraseEntity(pb.EraseEntityRequest(pipeline=P, entity="any-3"), timeout=60)
    assert (erased.lake_rows, erased.online, erased.training_set_rows) == (2, True, 1)
    for replica in pair.replicas:
        assert replica.online(P, ["any-3"])[0].status == pb.EntityFeatures.STATUS_NOT_FOUND
    with pytest.raises(grpc.RpcError) as refused:
        standby.training_set("other", "third")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no pipeline `other`" in refused.value.details()


def test_killing_the_owner_under_load_loses_and_doubles_nothing(pair: Pair) -> None:
    chance, published = random.Random(3), 0
    before = pair.owner().positions(P)["applications"].rows
    for _ in range(2):
        killed, standby = pair.owner(), pair.other()
        moment = time.monotonic() + chance.uniform(0.5, 1.5)
        while time.monotonic() < moment:
            published = publish(pair, published, chance)
        killed.kill()
        gone = time.monotonic()
        assert numbers(standby.online(P, ["any-8"], INCOME)[0]) == [8.0], "reads go on"
        while not standby.owns():
            published = publish(pair, published, chance)
            assert time.monotonic() < gone + TAKES_OVER_WITHIN_S, standby.waits_for()
        killed.start()
        killed.knows(P)
    for replica in pair.replicas:
        replica.holds(P, "applications", before + published)
    for start in range(0, published, 1_000):
        part = range(start, min(start + 1_000, published))
        reader = pair.other()

        def there(part: range = part, reader: Replica = reader) -> bool:
            return [
                numbers(one)[0] for one in reader.online(P, [f"k-{number}" for number in part], INCOME)
            ] == list(map(float, part))

        until(there, what=f"rows {start:,} and on are online")


def publish(pair: Pair, published: int, chance: random.Random) -> int:
    """About a thousand a second."""
    time.sleep(0.1)  # the pace of publishing
    rows = [application(f"k-{published + number}", 1, float(published + number)) for number in range(100)]
    pair.world.ingest(P, "applications", rows, partition=chance.randrange(2))
    return published + len(rows)


def test_the_lake_holds_each_row_once(pair: Pair) -> None:
    """As it lies on disk, without what readers do about repeats; a merge that is under way leaves
    some for a moment.
    """
    folder = pair.world.home / "feature_store" / "lake" / P / "applications"

    def once() -> bool:
        seen: list[tuple[int, int]] = []
        try:
            for path in folder.glob("p*.parquet"):
                table = pq.read_table(path, columns=[names.PARTITION, names.OFFSET])
                seen += zip(table[names.PARTITION].to_pylist(), table[names.OFFSET].to_pylist(), strict=True)
        except FileNotFoundError:
            return False
        return 0 < len(seen) == len(set(seen))

    until(once, what="each row lies in one file")


def test_an_owner_that_stops_hands_over_at_once(pair: Pair) -> None:
    stopped, standby = pair.owner(), pair.other()
    assert stopped.stop() == 0
    began = datetime.now(UTC)
    until(standby.owns, within=10, what="the other owns the lake")
    assert (datetime.now(UTC) - began).total_seconds() < 10
    stopped.start()
    stopped.knows(P)
    assert pair.owner() is standby


def test_labels_that_came_during_a_run_count_whoever_hears_of_its_end(pair: Pair) -> None:
    pipeline = "watched-by-two"
    pair.world.apply(credit_risk(pipeline=pipeline, training={"trigger": {"new_labels": 10}}))
    for replica in pair.replicas:
        replica.knows(pipeline)
    with pair.world.events("training-runs.v1") as seen:

        def requests() -> list[TrainingRunRequested]:
            return [
                event
                for event in seen.listen()
                if isinstance(event, TrainingRunRequested) and event.pipeline == pipeline
            ]  # type: ignore[attr-defined]

        pair.world.ingest(pipeline, "outcomes", [outcome(f"w{number}", True) for number in range(10)])
        (first,) = until(requests, what="a run is requested")
        pair.world.ingest(pipeline, "outcomes", [outcome(f"v{number}", True) for number in range(12)])
        pair.owner().holds(pipeline, "outcomes", 22)
        failed = TrainingRunFailed(
            run_id=first.run_id, pipeline=pipeline, kind="conflict", reason="", remedy="", failed_at=NOW
        )
        pair.world.tell(facts.signed(failed, pair.world.keys.signer("trainer")))
        until(lambda: len(requests()) == 2, what="a second run is requested")


def test_a_replica_that_does_not_share_the_volume_owns_nothing(pair: Pair, tmp_path: Path) -> None:
    database = pair.world.home / "feature_store" / "feature_store.db"
    stranger = Replica(
        pair.world.settings, tmp_path, {"PENSTOCK_FEATURE_STORE__DATABASE": f"sqlite:///{database}"}, name="2"
    )
    stranger.start()
    try:
        why = until(lambda: stranger.waits_for().get("lake"), what="it says why it waits")
        until(
            lambda: "does not share this volume" in stranger.waits_for()["lake"],
            what=f"it says so, not {why}",
        )
        assert not stranger.owns()
    finally:
        stranger.close()
