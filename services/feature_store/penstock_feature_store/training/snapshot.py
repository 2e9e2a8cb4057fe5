# ruff: noqa: S608  every name in the SQL below is quoted by `quoted` or is one of ours
"""A snapshot of the lake for one training set: hard-linked files, read by DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.dataplane import MAX_NUMBER
from penstock.contracts.events import OffsetRange
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock_feature_store import names
from penstock_feature_store.lake.batches import source_schema
from penstock_feature_store.training.columns import place_of

TIME = pa.timestamp("us", tz="UTC")
ROW = "row"
_SQL = {"number": "DOUBLE", "category": "VARCHAR", "text": "VARCHAR", "boolean": "BOOLEAN"}


class Snapshot:
    """The lake's files as tables, each event once."""

    def __init__(self, database: duckdb.DuckDBPyConnection, folder: Path, pipeline: Pipeline) -> None:
        self._database = database
        self._pipeline = pipeline
        for source in pipeline.sources:
            self._open(source, sorted((folder / source).glob("*.parquet")))

    def labels(self) -> pa.Table:
        """__entity, __time, __id, label and row number, oldest first."""
        source, column = place_of(self._pipeline.target.source_field)
        found: pa.Table = self._database.sql(
            f"""SELECT {names.ENTITY}, {names.TIME}, {names.ID}, {quoted(column)} AS label
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
        columns = ", ".join(quoted(place_of(reference)[1]) for reference in references)
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
            topic = source_topic("events", self._pipeline.pipeline, source)
            ranges = f"""SELECT {names.PARTITION}, min({names.OFFSET}), max({names.OFFSET}) + 1
                FROM {quoted(source)} GROUP BY 1 ORDER BY 1"""
            for partition, first, last in self._database.execute(ranges).fetchall():
                found.append(OffsetRange(topic=topic, partition=partition, first=first, last=last))
        return found

    def _open(self, source: str, files: Sequence[Path]) -> None:
        declared = self._pipeline.sources[source]
        if not files:
            self._database.register(source, source_schema(declared).empty_table())
            return
        present = {name for file in files for name in pq.read_schema(file).names}
        fields = {names.column_of(name): _SQL[field.type] for name, field in declared.fields.items()}
        columns = [
            f"{_value(quoted(column) if column in present else 'NULL', kind)} AS {quoted(column)}"
            for column, kind in fields.items()
        ]
        meta = [names.ENTITY, names.TIME, names.ID, names.PARTITION, names.OFFSET]
        paths = ", ".join(f"'{escaped(file)}'" for file in files)
        self._database.execute(
            f"""CREATE TABLE {quoted(source)} AS SELECT {", ".join([*meta, *columns])}
            FROM read_parquet([{paths}], union_by_name=true)
            QUALIFY row_number() OVER (
                PARTITION BY {names.PARTITION}, {names.OFFSET} ORDER BY {names.RECORD}) = 1"""
        )


def _value(column: str, kind: str) -> str:
    # A lake may hold numbers from before ingest bounded them.
    value = f"CAST({column} AS {kind})"
    return f"CASE WHEN abs({value}) <= {MAX_NUMBER} THEN {value} END" if kind == "DOUBLE" else value


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def escaped(path: Path) -> str:
    return str(path).replace("'", "''")
