# ruff: noqa: S608  every name in the SQL below is quoted by `quoted` or is one of ours
"""A snapshot of the lake for one training set: hard-linked files, read by DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.events import OffsetRange
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock_feature_store import names
from penstock_feature_store.lake.batches import TYPES

TIME = pa.timestamp("us", tz="UTC")
ROW = "row"


class Columns(NamedTuple):
    """Columns to read from the sources, by field reference."""

    features: Mapping[str, str]
    """Reference by feature name."""
    groups: Mapping[str, str]
    """Reference by field name."""

    @property
    def references(self) -> list[str]:
        return list(dict.fromkeys([*self.features.values(), *self.groups.values()]))


class Snapshot:
    """The lake's files as tables, each event once."""

    def __init__(self, database: duckdb.DuckDBPyConnection, folder: Path, pipeline: Pipeline) -> None:
        self._database = database
        self._pipeline = pipeline
        for source in pipeline.sources:
            self._open(source, sorted((folder / source).glob("*.parquet")))

    def labels(self) -> pa.Table:
        """__entity, __time, __id, label and row number, oldest first."""
        source, _, field = self._pipeline.target.source_field.partition(".")
        found: pa.Table = self._database.sql(
            f"""SELECT {names.ENTITY}, {names.TIME}, {names.ID}, {quoted(names.column_of(field))} AS label
            FROM {quoted(source)}
            WHERE label IS NOT NULL
            ORDER BY {names.TIME}, {names.ENTITY}, {names.ID}, {names.PARTITION}, {names.OFFSET}"""
        ).to_arrow_table()
        self._database.register("labels", found)
        return found.append_column(ROW, pa.array(np.arange(found.num_rows)))

    def write_features(self, source: str, references: Sequence[str], path: Path) -> None:
        """Writes, for each labelled entity and moment, the row with the highest offset: Feast is left no
        tie to break.
        """
        columns = ", ".join(quoted(names.column_of(reference.partition(".")[2])) for reference in references)
        self._database.execute(
            f"""COPY (SELECT {names.ENTITY}, {names.TIME}, {names.TIME} AS {names.AT}, {columns}
            FROM {quoted(source)}
            WHERE {names.ENTITY} IN (SELECT {names.ENTITY} FROM labels)
            QUALIFY row_number() OVER (
                PARTITION BY {names.ENTITY}, {names.TIME}
                ORDER BY {names.OFFSET} DESC, {names.PARTITION} DESC) = 1)
            TO '{escaped(path)}' (FORMAT parquet)"""
        )

    def offsets(self) -> list[OffsetRange]:
        """The events behind all rows, by topic and partition."""
        found = []
        for source in self._pipeline.sources:
            ranges = self._database.execute(
                f"SELECT {names.PARTITION}, min({names.OFFSET}), max({names.OFFSET}) + 1 FROM"
                f" {quoted(source)} GROUP BY 1 ORDER BY 1"
            ).fetchall()
            topic = source_topic("events", self._pipeline.pipeline, source)
            found += [
                OffsetRange(topic=topic, partition=partition, first=first, last=last)
                for partition, first, last in ranges
            ]
        return found

    def _open(self, source: str, files: Sequence[Path]) -> None:
        fields = self._pipeline.sources[source].fields
        present = {name for file in files for name in pq.read_schema(file).names}
        columns = [
            f"CAST({quoted(column) if column in present else 'NULL'} AS {_SQL[str(TYPES[field.type])]}) AS"
            f" {quoted(column)}"
            for name, field in fields.items()
            if (column := names.column_of(name))
        ]
        meta = [names.ENTITY, names.TIME, names.ID, names.PARTITION, names.OFFSET]
        if not files:
            nothing = ", ".join(
                f"CAST(NULL AS {kind}) AS {name}" for name, kind in zip(meta, _META_SQL, strict=True)
            )
            self._database.execute(
                f"CREATE VIEW {quoted(source)} AS SELECT {nothing}, {', '.join(columns)} WHERE false"
            )
            return
        paths = ", ".join(f"'{escaped(file)}'" for file in files)
        self._database.execute(
            f"""CREATE TABLE {quoted(source)} AS SELECT {", ".join([*meta, *columns])}
            FROM read_parquet([{paths}], union_by_name=true)
            QUALIFY row_number() OVER (
                PARTITION BY {names.PARTITION}, {names.OFFSET} ORDER BY {names.RECORD}) = 1"""
        )


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def escaped(path: Path) -> str:
    return str(path).replace("'", "''")


_SQL = {"double": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN"}
_META_SQL = ("VARCHAR", "TIMESTAMPTZ", "VARCHAR", "INTEGER", "BIGINT")
