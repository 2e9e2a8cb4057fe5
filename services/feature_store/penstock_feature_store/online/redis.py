"""The online store in Redis: any replica reads it, the one that owns the lake writes it.

Feast keeps one hash for an entity and project, with the fields of all feature views: `_ts:<view>`,
and for each feature a 32-bit hash of `<view>:<feature>`. A row is written by one command, and its
position after it, to the same server: whatever end of its log a server loses, it loses positions
before the rows that they speak of. That holds for one server or a pair with failover, and not for
Redis Cluster.

Feast does two things that are left out. It skips what is not newer by time, where the higher offset
has to win; and it removes a view by scanning for keys that end in the project's name, as another
project's may too.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names
from penstock_feature_store.online import sqlite as online_sqlite
from penstock_feature_store.online.definitions import KEY_VERSION
from penstock_feature_store.online.feast_import import Value, _mmh3, _redis_key, _redis_key_prefix
from penstock_feature_store.online.redis_server import Address, connect, told, write_anew
from penstock_feature_store.online.stores import OnlineStore, OnlineStores, key_of, serialized_key

AT_ONCE = 1_000  # keys asked for in one go while rows expire
_PREFIX: bytes = _redis_key_prefix([names.ENTITY])
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class RedisOnlineStore(OnlineStore):
    """Keys of one pipeline: Feast's, which end in its project, and `penstock:positions:<project>`."""

    def __init__(
        self, folder: Path, pipeline: Pipeline, section: Mapping[str, Any], redis: Any, address: Address
    ) -> None:
        """Raises Invalid where two fields have one place in Feast's hash."""
        super().__init__(folder, pipeline, section)
        self._redis = redis
        self._address = address
        self._project = names.project_of(pipeline.pipeline)
        self._positions = f"penstock:positions:{self._project}"
        # Feast would make its own from the section, which holds no password.
        self._provider.online_store._client = redis
        self._refuse_collisions()

    def close(self) -> None:
        """The client is all stores'."""

    def positions(self, source: str) -> dict[int, int]:
        with self._turn():
            found: dict[bytes, bytes] = self._redis.hgetall(self._positions)
        prefix = f"{source}/"
        return {
            int(place.removeprefix(prefix)): int(at)
            for field, at in found.items()
            if (place := field.decode()).startswith(prefix)
        }

    def save(self, source: str, positions: Mapping[int, int]) -> None:
        with self._turn():
            self._redis.hset(
                self._positions, mapping={f"{source}/{part}": at for part, at in positions.items()}
            )

    def erase(self, sources: Collection[str], entity: str) -> bool:
        """Erases all fields of the entity but those of other entities' views: also fields that no pipeline
        declares any more.
        """
        gone = {names.view_of(source) for source in sources}
        stay = {field for view in self._views.values() if view.name not in gone for field in _fields(view)}
        key = _redis_key(self._project, key_of(entity), entity_key_serialization_version=KEY_VERSION)
        with self._turn():
            leaving = [field for field in self._redis.hkeys(key) if field not in stay]
            if leaving:
                self._redis.hdel(key, *leaving)
            write_anew(self._redis, str(self._address))
        return bool(leaving)

    def expire(self, source: str, before: datetime) -> int:
        view, bound, gone = self._views[source], int(before.timestamp()) * 1_000_000, 0
        for keys in self._keys():
            with self._turn(), self._pipe() as asked, self._pipe() as removed:
                for key in keys:
                    asked.hget(key, _field(view, names.INGESTED))
                for key, value in zip(keys, asked.execute(), strict=True):
                    if value and Value.FromString(value).int64_val < bound:
                        removed.hdel(key, *_fields(view))
                        gone += 1
                removed.execute()
        return gone

    def clear(self) -> None:
        """Field by field: this user may not delete keys, and a hash without fields is none."""
        for keys in itertools.chain(self._keys(), [[self._positions.encode()]]):
            with self._turn():
                for key in keys:
                    if fields := self._redis.hkeys(key):
                        self._redis.hdel(key, *fields)
        with self._turn():
            write_anew(self._redis, str(self._address))

    def _packed(self, source: str, entities: Sequence[str]) -> Sequence[tuple[bytes | None, bytes | None]]:
        view, project = self._views[source], self._project.encode()
        fields = [_field(view, name) for name in (names.ORIGIN, names.ROW)]
        with self._turn(), self._pipe() as asked:
            for entity in entities:
                asked.hmget(serialized_key(entity) + project, fields)
            return [(origin, packed) for origin, packed in asked.execute()]

    def _pipe(self) -> Any:
        return self._redis.pipeline(transaction=False)

    def _keys(self) -> Iterator[Sequence[bytes]]:
        """Keys of all entities, AT_ONCE at a time."""
        cursor = 0
        while True:
            with self._turn():
                cursor, found = self._redis.scan(
                    cursor, match=_PREFIX + b"*" + self._project.encode(), count=AT_ONCE
                )
            yield [key for key in set(found) if _project_of(key) == self._project]
            if cursor == 0:
                return

    def _turn(self) -> AbstractContextManager[object]:
        return told(self._address)

    def _beside(self, ingested: datetime | None) -> dict[str, Any]:
        us = None if ingested is None else (ingested - _EPOCH) // timedelta(microseconds=1)
        return {names.INGESTED: Value() if us is None else Value(int64_val=us)}

    def _refuse_collisions(self) -> None:
        taken: dict[bytes, str] = {}
        for source, view in self._views.items():
            for name in _features(view):
                this = f"{source}.{name}"
                if (other := taken.setdefault(_field(view, name), this)) != this:
                    raise Invalid(
                        f"{this} and {other} have one place in Redis",
                        where=self._project,
                        remedy="Rename one of them",
                    )


class RedisOnlineStores(OnlineStores):
    """A client for all pipelines. They share a database; two installations do not."""

    shared = True

    def __init__(self, address: Address, password_file: Path | None) -> None:
        """Connects to nothing."""
        self._address = address
        self._redis: Any = connect(address, password_file)
        said = f"{address},db={address.database}" + (",ssl=true" if address.tls else "")
        self.section = {
            "type": "redis",
            "connection_string": said,
            "full_scan_for_deletion": False,
            "skip_dedup": True,
        }

    def open(self, folder: Path, pipeline: Pipeline) -> RedisOnlineStore:
        return RedisOnlineStore(folder, pipeline, self.section, self._redis, self._address)

    def lost(self, folder: Path) -> bool:
        """Never: there is nothing to make. A file from before Redis holds rows that no erasure
        would reach.
        """
        online_sqlite.remove(folder)
        return False

    def applied(self, folder: Path, gone: Collection[str]) -> None:
        """Rows and positions of views that are gone stay, as the lake's rows do: one that comes
        back is whole.
        """

    def check(self) -> None:
        with told(self._address):
            said = self._redis.info()
        if said.get("role") == "slave":
            raise Unavailable(
                "this Redis is a replica and takes no rows",
                where=str(self._address),
                remedy="Name the primary",
            )
        if said.get("maxmemory") and str(said.get("maxmemory_policy", "")).startswith("allkeys"):
            raise Unavailable(
                f"Redis drops rows when it is full (maxmemory-policy {said['maxmemory_policy']})",
                where=str(self._address),
                remedy="Set it to noeviction",
            )

    def close(self) -> None:
        self._redis.close()


def _features(view: Any) -> list[str]:
    return [*(feature.name for feature in view.features), names.INGESTED]


def _field(view: Any, feature: str) -> bytes:
    return bytes(_mmh3(f"{view.name}:{feature}"))


def _fields(view: Any) -> list[bytes]:
    return [f"_ts:{view.name}".encode(), *(_field(view, name) for name in _features(view))]


def _project_of(key: bytes) -> str:
    """Project in a key, the part after the entity: names of projects may end alike."""
    start = len(_PREFIX) + 8
    (length,) = struct.unpack_from("<I", key, start - 4)
    return key[start + length :].decode()
