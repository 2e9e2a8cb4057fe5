"""The service with its online store in Redis, against the real broker: Redis is away, is killed, is
emptied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from feature_world import World, application, numbers, outcome
from lending import credit_risk
from redis_server import PASSWORD, RedisServer

from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.testing.broker import Kafka
from penstock.testing.files import below
from penstock.testing.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.docker]

P = "credit-risk"
INCOME = ["applications.income"]


@pytest.fixture(scope="module")
def world(kafka: Kafka, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Starts while Redis is away."""
    environment = {
        "PENSTOCK_FEATURE_STORE__ONLINE_STORE": f"{redis.url}/0",
        "PENSTOCK_FEATURE_STORE__ONLINE_STORE_PASSWORD_FILE": str(redis.password_file),
    }
    world = World(kafka, tmp_path_factory.mktemp("feature-store"), environment)
    world.apply(credit_risk())
    redis.kill()
    world.start()
    try:
        world.knows(P)
        yield world
    finally:
        world.close()
        redis.start()


def online(world: World, entities: list[str], incomes: list[float | None], within: float = 60) -> None:
    def so() -> bool:
        try:
            return [numbers(found)[0] for found in world.online(P, entities, INCOME)] == incomes
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    until(so, within=within, what="the rows are online")


def test_away_at_the_start_it_is_waited_for_and_training_sets_go_on(world: World, redis: RedisServer) -> None:
    until(lambda: "online store" in world.waits_for(), what="it says what it waits for")
    assert "Redis does not answer" in world.waits_for()["online store"]
    entities = [f"e-{number}" for number in range(80)]
    applied = world.ingest(
        P, "applications", [application(entity, 100, float(number)) for number, entity in enumerate(entities)]
    )
    observed = world.ingest(
        P, "outcomes", [outcome(entity, number % 2 == 0) for number, entity in enumerate(entities)]
    )
    made = world.training_set(P, "meanwhile", below={"applications": {0: applied}, "outcomes": {0: observed}})
    assert sum(made.rows.values()) == 80
    with pytest.raises(grpc.RpcError) as refused:
        world.online(P, ["e-7"], INCOME)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "Redis does not answer" in refused.value.details()
    redis.start()
    online(world, ["e-7", "e-79"], [7.0, 79.0])
    until(lambda: not world.waits_for(), what="it waits for nothing")


def test_killed_under_load_it_has_every_row_again(world: World, redis: RedisServer) -> None:
    published: dict[str, float] = {}
    for moment in (1.0, 2.5):
        deadline, killed = time.monotonic() + moment, False
        while time.monotonic() < deadline:
            rows = {f"k-{len(published) + number}": float(len(published) + number) for number in range(300)}
            world.ingest(
                P, "applications", [application(entity, 1, income) for entity, income in rows.items()]
            )
            published |= rows
            if not killed and len(published) > 900:
                redis.kill()
                killed = True
        if not killed:
            redis.kill()
        redis.start()
    names = list(published)
    for start in range(0, len(names), 1_000):
        part = names[start : start + 1_000]
        online(world, part, [published[name] for name in part])


def test_emptied_it_is_filled_again_from_the_lake(world: World, redis: RedisServer) -> None:
    online(world, ["e-1"], [1.0])
    redis.empty()
    online(world, [f"e-{number}" for number in range(80)], [float(number) for number in range(80)])


def test_an_erasure_that_began_while_it_was_away_is_finished(world: World, redis: RedisServer) -> None:
    world.ingest(P, "applications", [application("Hypatia-415", 1, 4.0)])
    online(world, ["Hypatia-415"], [4.0])
    assert redis.holds("Hypatia-415")
    redis.kill()
    with pytest.raises(grpc.RpcError, match="goes on by itself") as refused:
        world.stub.EraseEntity(pb.EraseEntityRequest(pipeline=P, entity="Hypatia-415"), timeout=60)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    redis.start()
    until(
        lambda: not list((world.home / "feature_store" / "erasures").iterdir()),
        what="the erasure is finished",
    )
    online(world, ["Hypatia-415"], [None])
    until(lambda: not redis.holds("Hypatia-415"), what="Redis wrote its files anew")


def test_the_password_is_nowhere(world: World) -> None:
    assert world.status()
    assert (
        PASSWORD not in f"{world.said()} {world.status()} {Path(f'/proc/{world.pid}/cmdline').read_bytes()!r}"
    )
    for path in below(world.home):
        with suppress(FileNotFoundError):
            if path.is_file() and os.access(path, os.R_OK):
                assert PASSWORD.encode() not in path.read_bytes(), path
