"""What only Redis does: it is away, it loses the end of its log, it is full, it wants a password."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lending import EPOCH, append, credit_risk, record
from online_worlds import RedisWorld
from redis import AuthenticationError
from redis.exceptions import NoPermissionError
from redis_server import PASSWORD, RedisServer

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.kafka.messages import Partition
from penstock_feature_store.lake.lake import SourceLake
from penstock_feature_store.online import redis_server
from penstock_feature_store.online.redis import RedisOnlineStores
from penstock_feature_store.online.redis_server import Address
from penstock_feature_store.online.repository import apply
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.online.stores import OnlineStore, coalesce
from penstock_feature_store.online.writer import step
from penstock_feature_store.pipelines import Gate, Owned
from penstock_feature_store.settings import Settings

PIPELINE = credit_risk()
FORBIDDEN = """\
FLUSHALL
FLUSHDB
CONFIG SET appendonly no
CONFIG REWRITE
ACL LIST
ACL SETUSER other on
KEYS *
EVAL 0 0
SAVE
SHUTDOWN NOSAVE
REPLICAOF 127.0.0.1 1
MODULE LIST
MONITOR
CLIENT LIST
CLIENT KILL TYPE normal
HSET other a b
SET penstock:positions:census 1""".splitlines()


@pytest.fixture
def world(redis: RedisServer, tmp_path: Path) -> RedisWorld:
    return RedisWorld(tmp_path, redis)


@pytest.fixture
def store(world: RedisWorld) -> Iterator[OnlineStore]:
    with world.opened(PIPELINE) as store:
        yield store


def held(lake: SourceLake, store: OnlineStore) -> Owned:
    return Owned(PIPELINE, 1, store, {"applications": lake}, store, Gate())


@pytest.mark.docker
def test_a_position_is_never_ahead_of_the_rows(world: RedisWorld, store: OnlineStore, tmp_path: Path) -> None:
    """Whatever end of its log Redis loses; and what it lost is written again."""
    lake, chance = SourceLake(tmp_path / "records"), random.Random(5)
    for first in range(0, 9_000, 1_500):
        rows = [
            record(offset, f"e{chance.randrange(300)}", chance.random(), {"income": float(offset)})
            for offset in range(first, first + 1_500)
        ]
        append(lake, PIPELINE, "applications", rows)
    begun = world.server.log_bytes()
    while step(held(lake, store), "applications", rejected):
        pass
    whole = world.server.log_bytes()
    reached = set()
    for _ in range(6):
        world.server.cut_log(chance.randrange(begun, whole))
        position = store.positions("applications").get(0, 0)
        reached.add(position)
        check(store, lake, below=position)
        while step(held(lake, store), "applications", rejected):
            pass
        check(store, lake, below=9_000)
    assert len(reached) > 2, "the log was cut at different places"


def rejected(partition: Partition, unfit: Sequence[tuple[int, Exception]]) -> None:
    raise AssertionError(f"{partition}: {unfit}")


def check(store: OnlineStore, lake: SourceLake, below: int) -> None:
    """All records below this offset are online, or newer ones."""
    table = lake.read()
    expected = coalesce(table.slice(0, below))
    found = store.read("applications", list(expected), [], EPOCH)
    assert all(
        row.origin is not None and row.origin >= origin
        for row, (origin, _) in zip(found, expected.values(), strict=True)
    )


CALLS: dict[str, Callable[[OnlineStore], object]] = {
    "read": lambda store: store.read("applications", ["a"], ["income"], EPOCH),
    "positions": lambda store: store.positions("applications"),
    "save": lambda store: store.save("applications", {0: 1}),
    "erase": lambda store: store.erase(["applications"], "a"),
    "expire": lambda store: store.expire("applications", EPOCH),
}


@pytest.mark.docker
def test_while_it_is_away_every_call_says_so_and_after_that_none(
    world: RedisWorld, store: OnlineStore
) -> None:
    store.save("applications", {0: 7})
    world.server.kill()
    for call in CALLS.values():
        with pytest.raises(Unavailable, match="Redis does not answer"):
            call(store)
    with pytest.raises(Unavailable, match="Redis does not answer"):
        world.stores.check()
    world.server.start()
    world.stores.check()
    assert store.positions("applications") == {0: 7}
    for call in CALLS.values():
        call(store)


def test_a_server_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stores = RedisOnlineStores(
            Address("127.0.0.1", silent.getsockname()[1], 0, tls=False, user=None), None
        )
        with pytest.raises(Unavailable, match="Redis does not answer: Timeout"):
            stores.open(tmp_path, PIPELINE).positions("applications")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("settings", "back", "why"),
    [
        (
            ["maxmemory", "1gb", "maxmemory-policy", "allkeys-lru"],
            ["maxmemory", "0", "maxmemory-policy", "noeviction"],
            "allkeys-lru",
        ),
        (["replicaof", "127.0.0.1 1"], ["replicaof", "no one"], "a replica"),
    ],
)
def test_a_server_that_would_lose_rows_is_not_used(
    world: RedisWorld, settings: list[str], back: list[str], why: str
) -> None:
    def change(to: list[str]) -> None:
        if to[0] == "replicaof":
            world.server.ask(*to[0].split(), *to[1].split())
        else:
            world.server.ask("config", "set", *to)

    world.stores.check()
    change(settings)
    try:
        with pytest.raises(Unavailable, match=why):
            world.stores.check()
    finally:
        change(back)
    world.stores.check()


@pytest.mark.docker
def test_a_full_server_refuses(world: RedisWorld, store: OnlineStore) -> None:
    world.server.ask("config", "set", "maxmemory", "1mb")
    try:
        with pytest.raises(Unavailable, match=r"Redis refuses: .*maxmemory"):
            store.save("applications", {0: 1})
    finally:
        world.server.ask("config", "set", "maxmemory", "0")


@pytest.mark.docker
def test_the_password_is_told_to_nobody_and_read_at_each_connect(world: RedisWorld, tmp_path: Path) -> None:
    with world.opened(PIPELINE):
        said = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert said
    assert not any(PASSWORD in text for text in said)
    file = tmp_path / "password"
    stores = RedisOnlineStores(world.server.address(), file)
    with pytest.raises(Unavailable, match=r"its password cannot be read: .*No such file"):
        stores.check()
    file.write_text("not-this-one")
    with pytest.raises(Unavailable, match="invalid username-password") as refused:
        stores.check()
    assert (
        "not-this-one" not in f"{refused.value!r} {refused.value} {refused.value.__cause__!r} {vars(stores)}"
    )
    file.write_text(PASSWORD)
    stores.check()
    stores.close()
    with pytest.raises(Unavailable, match="Authentication required"):
        RedisOnlineStores(world.server.address()._replace(user=None), None).check()


@pytest.mark.docker
@pytest.mark.parametrize("command", FORBIDDEN)
def test_its_user_does_nothing_but_its_work(world: RedisWorld, command: str) -> None:
    """Attack by a feature store that somebody has taken over."""
    with redis_server.connect(world.server.address(), world.server.password_file) as redis:
        assert redis.execute_command("PING")
        with pytest.raises(NoPermissionError):
            redis.execute_command(*command.split())


@pytest.mark.docker
def test_nobody_comes_in_by_default(world: RedisWorld) -> None:
    address = world.server.address()._replace(user=None)
    with (
        redis_server.connect(address, world.server.password_file) as redis,
        pytest.raises(AuthenticationError),
    ):
        redis.ping()


@pytest.mark.docker
def test_a_file_from_before_redis_is_removed(world: RedisWorld) -> None:
    """No erasure would reach the rows in it."""
    folder = world.repository(PIPELINE)
    assert apply(PIPELINE, folder, world.folder / "lake", SqliteOnlineStores())
    assert list(folder.glob("online.db*"))
    assert world.apply(PIPELINE)
    assert not list(folder.glob("online.db*"))
    assert not world.apply(PIPELINE)


def test_fields_that_feast_would_keep_in_one_place_are_refused(tmp_path: Path) -> None:
    from penstock_feature_store.online.feast_import import _mmh3

    seen: dict[bytes, str] = {}
    for number in itertools.count():
        name = f"f{number}"
        if other := seen.setdefault(_mmh3(f"applications:{name}"), name) != name:
            break
    other = seen[_mmh3(f"applications:{name}")]
    spec = PIPELINE.model_dump(mode="json", by_alias=True)
    spec["sources"]["applications"]["fields"] |= {one: {"type": "number"} for one in (name, other)}
    with pytest.raises(Invalid, match="have one place in Redis"):
        RedisOnlineStores(Address.read("redis://nowhere"), None).open(tmp_path, Pipeline.model_validate(spec))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis:6379/0", Address("redis", 6379, 0, tls=False, user=None)),
        ("redis://cache", Address("cache", 6379, 0, tls=False, user=None)),
        ("rediss://feast@cache:7000/3", Address("cache", 7000, 3, tls=True, user="feast")),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert Address.read(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@redis:6379/0",
        "redis://u:hunter2@redis",
        "hunter2",
        "redis://redis:hunter2",
        "redis:///hunter2",
    ],
)
def test_a_wrong_address_is_refused_without_repeating_it(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from penstock.runtime.process import start

    monkeypatch.setenv("PENSTOCK_FEATURE_STORE__ONLINE_STORE", url)
    with pytest.raises(SystemExit) as ended:
        start(lambda settings: None, Settings)  # type: ignore[arg-type,return-value]
    assert "the online store's URL" in str(ended.value)
    assert "hunter2" not in str(ended.value)
