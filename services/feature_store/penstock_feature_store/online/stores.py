"""The online store: each entity's newest row of each source, through Feast's provider. A port, and
what its adapters have in common.

Three things Feast does not do are done here. The newest event time wins, then the highest offset,
however late an event arrives. A row older than `training.max_age` is expired. A missing value is
missing, not a row that is not there.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names
from penstock_feature_store.lake.batches import META
from penstock_feature_store.online.definitions import KEY_VERSION, config, definitions
from penstock_feature_store.online.feast_import import (
    EntityKey,
    Value,
    get_provider,
    serialize_entity_key,
)
from penstock_feature_store.online.packed import Packed, Packing
from penstock_feature_store.online.rows import Origin, Row, Scalar

_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, UTC), timedelta(microseconds=1)
BATCH = 500  # rows in one write to Feast; on SQLite it does a statement per value


class OnlineStore(ABC):
    """Rows of one pipeline, and how far the lake has been written into them. Blocking, and safe from
    any thread; one writer at a time.

    Each method raises Unavailable where the store does not answer. Opening it connects to nothing.
    """

    at_hand = False  # true where `features` waits for nothing but this machine's disk

    def __init__(self, folder: Path, pipeline: Pipeline, section: Mapping[str, Any]) -> None:
        """`folder`: the pipeline's repository. After the pipeline changes, close this store and
        open another.
        """
        _, self._views = definitions(pipeline, lambda source: f"{source}.parquet")
        self._max_age = pipeline.training.max_age
        self.packings = _packings(pipeline)
        self._config = config(folder, pipeline.pipeline, section)
        self._provider: Any = get_provider(self._config)

    # -- the adapter's -----------------------------------------------------------------------------

    @abstractmethod
    def positions(self, source: str) -> dict[int, int]:
        """Returns the next offset to write, by partition: never ahead of the rows, also in a store made
        anew or set back.
        """

    @abstractmethod
    def save(self, source: str, positions: Mapping[int, int]) -> None:
        """Stores positions, after the rows below them."""

    @abstractmethod
    def erase(self, sources: Collection[str], entity: str) -> bool:
        """Removes the entity's rows of these sources, declared or not any more, and whatever the
        store keeps of them. True when there were any. May be repeated.
        """

    @abstractmethod
    def expire(self, source: str, before: datetime) -> int:
        """Removes what ingest published before this moment, to the second; returns how many values
        or rows.
        """

    @abstractmethod
    def clear(self) -> None:
        """Removes all rows and positions of the pipeline, before its repository's folder goes. May be
        repeated.
        """

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _packed(self, source: str, entities: Sequence[str]) -> Sequence[tuple[bytes | None, bytes | None]]:
        """`__origin` and `__row` as Feast keeps them, None where it does not. Waits for no
        writer.
        """

    @abstractmethod
    def _turn(self) -> AbstractContextManager[object]:
        """Guards each use of Feast's provider."""

    def _beside(self, ingested: datetime | None) -> dict[str, Any]:
        """Values that the adapter keeps with a row besides its own, by feature."""
        return {}

    # -- in common ---------------------------------------------------------------------------------

    def write(self, source: str, table: pa.Table) -> int:
        """Rows of the lake, in any order, also again; returns how many entities changed."""
        view = self._views[source]
        declared = {feature.name for feature in view.features} - {names.ORIGIN, names.ROW}
        for column in declared - set(table.column_names):
            table = table.append_column(column, pa.nulls(table.num_rows))
        newest = list(coalesce(table).items())
        with self._turn():
            return sum(
                self._write(source, table, newest[start : start + BATCH])
                for start in range(0, len(newest), BATCH)
            )

    def _write(self, source: str, table: pa.Table, newest: Sequence[tuple[str, tuple[Origin, int]]]) -> int:
        view, packing = self._views[source], self.packings[source]
        keys = [key_of(entity) for entity, _ in newest]
        held = self._packed(source, [entity for entity, _ in newest])
        wins = [
            (key, origin, row)
            for key, (_, (origin, row)), (old, _) in zip(keys, newest, held, strict=True)
            if old is None or origin > Origin.read(Value.FromString(old).string_val)
        ]
        taken = table.take(pa.array([row for *_, row in wins], pa.int64()))
        ingested = taken.column(names.INGESTED).to_pylist()
        # Also fields that no pipeline told us of yet.
        columns = [name for name in taken.column_names if name not in META.names]
        rows = [
            (
                key,
                {column: _proto(value) for column, value in values.items()}
                | {names.ORIGIN: Value(string_val=str(origin))}
                | ({names.ROW: Value(bytes_val=packing.pack(origin, values))} if packing.fields else {})
                | self._beside(published),
                origin.time,
                published,
            )
            for (key, origin, _), values, published in zip(
                wins, taken.select(columns).to_pylist(), ingested, strict=True
            )
        ]
        if rows:
            self._provider.online_write_batch(self._config, view, rows, None)
        return len(rows)

    def read(self, source: str, entities: Sequence[str], fields: Sequence[str], now: datetime) -> list[Row]:
        """Reads a row an entity, in order."""
        columns = {field: names.column_of(field) for field in fields}
        keys = [key_of(entity) for entity in entities]
        wanted = [*dict.fromkeys(columns.values()), names.ORIGIN]
        with self._turn():
            found = self._provider.online_read(self._config, self._views[source], keys, wanted)
        return [_row(values, columns, self._max_age, now) for _, values in found]

    def features(self, source: str, entities: Sequence[str], now: datetime) -> list[Packed | None]:
        """Reads a row an entity, in order, with the fields of the packing; None where `read` must tell."""
        oldest_us = (now - self._max_age - _EPOCH) // _MICROSECOND
        return self.packings[source].unpack(self._packed(source, entities), oldest_us)


class OnlineStores(ABC):
    """Port to the online stores of a process's pipelines."""

    section: Mapping[str, Any]  # Feast's `online_store` in `feature_store.yaml`; holds no secret
    shared: bool  # true where replicas that do not own the lake read it too

    @abstractmethod
    def open(self, folder: Path, pipeline: Pipeline) -> OnlineStore:
        """`folder`: the pipeline's repository."""

    @abstractmethod
    def lost(self, folder: Path) -> bool:
        """Tells, before the repository is applied, whether it must be applied again because its tables
        are gone or broken.
        """

    @abstractmethod
    def applied(self, folder: Path, gone: Collection[str]) -> None:
        """Tidies up after Feast applied the repository. `gone`: views that are no longer declared."""

    @abstractmethod
    def check(self) -> None:
        """Raises Unavailable that says why no row can be read or written at the moment."""

    @abstractmethod
    def close(self) -> None: ...


def _packings(pipeline: Pipeline) -> Mapping[str, Packing]:
    """Packed rows hold the fields that features are made of, by column."""
    fields: dict[str, dict[str, None]] = {source: {} for source in pipeline.sources}
    for feature in pipeline.resolved_features().values():
        source, _, field = feature.source_field.partition(".")
        fields[source][field] = None
    return {source: Packing(source, list(of_source)) for source, of_source in fields.items()}


def coalesce(table: pa.Table) -> dict[str, tuple[Origin, int]]:
    """The newest row of each entity: its origin and its place in the table."""
    newest: dict[str, tuple[Origin, int]] = {}
    origins = zip(
        table.column(names.TIME).cast(pa.int64()).to_pylist(),
        table.column(names.OFFSET).to_pylist(),
        table.column(names.PARTITION).to_pylist(),
        table.column(names.ID).to_pylist(),
        strict=True,
    )
    for row, (entity, origin) in enumerate(
        zip(table.column(names.ENTITY).to_pylist(), map(Origin._make, origins), strict=True)
    ):
        if entity not in newest or origin > newest[entity][0]:
            newest[entity] = (origin, row)
    return newest


def key_of(entity: str) -> Any:
    """Feast's key of an entity's rows."""
    return EntityKey(join_keys=[names.ENTITY], entity_values=[Value(string_val=entity)])


def serialized_key(entity: str) -> bytes:
    """`key_of` as Feast serializes it, twenty times as fast."""
    name = entity.encode()
    return _BEFORE_LENGTH + struct.pack("<I", len(name)) + name


_BEFORE_LENGTH: bytes = serialize_entity_key(key_of(""), entity_key_serialization_version=KEY_VERSION)[:-4]


def _origin(values: Mapping[str, Any] | None) -> Origin | None:
    """None where there is no row; Redis gives one without values then."""
    text = values[names.ORIGIN].string_val if values and names.ORIGIN in values else ""
    return Origin.read(text) if text else None


def _row(
    values: Mapping[str, Any] | None, columns: Mapping[str, str], max_age: timedelta, now: datetime
) -> Row:
    """`columns` by field."""
    origin = _origin(values)
    if origin is None or values is None:
        return Row("not_found", None, {})
    if now - origin.time > max_age:
        return Row("expired", origin, {})
    return Row("found", origin, {field: _scalar(values.get(column)) for field, column in columns.items()})


def _proto(value: Scalar) -> Any:
    match value:
        case None:
            return Value()
        case bool():
            return Value(bool_val=value)
        case str():
            return Value(string_val=value)
        case _:
            return Value(double_val=value)


def _scalar(value: Any) -> Scalar:
    kind = value.WhichOneof("val") if value is not None else None
    found: Scalar = None if kind in (None, "null_val") else getattr(value, kind)
    return found
