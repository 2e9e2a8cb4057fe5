# ruff: noqa: S608  every name in the SQL below is quoted by `quoted` or is one of ours
"""Snapshot of the lake for one training set: hard-linked files, read by DuckDB.

What is held in memory is narrow: labels, their places, the events of which there are several, and,
while these are looked for, 64 bits of each event. Everything else streams from the files, and what
does not fit goes to files of DuckDB's own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.contracts.dataplane import MAX_NUMBER
from penstock.contracts.events import OffsetRange
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock_feature_store import names
from penstock_feature_store.lake.batches import source_schema
from penstock_feature_store.training.columns import place_of, source_of

TIME = pa.timestamp("us", tz="UTC")
LABELLED = (names.ENTITY, names.TIME, names.ID)
PLACE = (names.PARTITION, names.OFFSET)  # of an event
ROW = "row"
LABELS = "labelled rows"  # no name of a source has a space
MEMORY = "400MB"  # of DuckDB's operators; what needs more goes to the scratch folder
THREADS = 4  # at most; each has buffers of its own
ROWS_AT_ONCE = 65_536
HASHED = 16_000_000  # rows whose keys are looked through for repeats in memory, 8 bytes each
_SQL = {"number": "DOUBLE", "category": "VARCHAR", "text": "VARCHAR", "boolean": "BOOLEAN"}


@contextmanager
def database(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, which spills to a folder below `scratch`."""
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone='UTC'")
        opened.execute(f"SET memory_limit='{MEMORY}'")
        opened.execute(f"SET threads={min(THREADS, os.cpu_count() or 1)}")
        opened.execute("SET preserve_insertion_order=false")
        opened.execute("SET enable_progress_bar=false")  # it would stand among the lines of the log
        opened.execute(f"SET temp_directory='{escaped(scratch / 'spill')}'")
        yield opened


class Snapshot:
    """The lake's files as tables, each event once."""

    def __init__(self, opened: duckdb.DuckDBPyConnection, folder: Path, pipeline: Pipeline) -> None:
        self._database = opened
        self._pipeline = pipeline
        for source in pipeline.sources:
            self._open(source, sorted((folder / source).glob("*.parquet")))

    def labels(self) -> pa.Table:
        """__entity, __time, __id, label and row number, oldest first."""
        source, column = place_of(self._pipeline.target.source_field)
        found: pa.Table = self._database.sql(
            f"""SELECT {", ".join([*LABELLED, *PLACE])}, {quoted(column)} AS label
            FROM {quoted(source)}
            WHERE {quoted(column)} IS NOT NULL
            ORDER BY {names.TIME}"""
        ).to_arrow_table()
        order = order_of(found, (names.ENTITY, names.ID, *PLACE))
        found = found.select([*LABELLED, "label"])
        if order is not None:
            for number, name in enumerate(found.column_names):  # no more than one column is there twice
                found = found.set_column(number, name, found.column(name).take(order))
        numbered = found.append_column(ROW, pa.array(np.arange(found.num_rows)))
        self._database.register(LABELS, numbered.select([ROW, names.ENTITY, names.TIME]))
        return numbered

    def joined(self, references: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Joins to each label of `labels` its features as of its time and no older than
        `training.max_age`: batches in the rows' order, a row number and one column a reference,
        a number or a text.

        A label without such a row keeps its place, everything missing. Of several rows of one entity and
        moment the last published counts.
        """
        oldest = round(self._pipeline.training.max_age.total_seconds() * 1e6)
        joins, wanted = [], [f"labels.{ROW}"]
        for source, of in itertools.groupby(sorted(references), source_of):
            taken = [(reference, quoted(place_of(reference)[1])) for reference in of]
            joins.append(self._as_of(source, [column for _, column in taken]))
            name = quoted(f"{source} as of")
            fresh = f"epoch_us(labels.{names.TIME}) - epoch_us({name}.{names.TIME}) <= {oldest}"
            wanted += [
                f"CASE WHEN {fresh} THEN {self._plain(reference, f'{name}.{column}')} END"
                f" AS {quoted(reference)}"
                for reference, column in taken
            ]
        rows = f"{quoted(LABELS)} AS labels {' '.join(joins)}"
        query = f"SELECT {', '.join(wanted)} FROM {rows} ORDER BY labels.{ROW}"
        yield from self._database.sql(query).to_arrow_reader(ROWS_AT_ONCE)

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
        meta = [*LABELLED, *PLACE]
        paths = ", ".join(f"'{escaped(file)}'" for file in files)
        stored = f"read_parquet([{paths}], union_by_name=true, filename='__file', file_row_number=true)"
        # Of a crash the lake may have several rows of an event: the first record counts.
        place = "struct_pack(file := __file, row := file_row_number)"
        once = self._once(f"{source} several", stored, PLACE, place, f"arg_min({place}, {names.RECORD})")
        selected = ", ".join([*meta, *columns])
        self._database.execute(
            f"CREATE VIEW {quoted(source)} AS SELECT {selected} FROM {stored} AS rows {once}"
        )

    def _as_of(self, source: str, columns: Sequence[str]) -> str:
        """Join to the source's newest row before each label; of one entity and moment, the last published."""
        of, name, moment = quoted(source), quoted(f"{source} as of"), [names.ENTITY, names.TIME]
        place = f"struct_pack(o := {names.OFFSET}, p := {names.PARTITION})"
        once = self._once(f"{source} ties", of, moment, place, f"max({place})")
        return f"""ASOF LEFT JOIN (SELECT {", ".join([*moment, *columns])} FROM {of} AS rows {once}) AS {name}
            ON labels.{names.ENTITY} = {name}.{names.ENTITY}
            AND labels.{names.TIME} >= {name}.{names.TIME}"""

    def _once(self, name: str, rows: str, key: Sequence[str], place: str, counts: str) -> str:
        """Condition on `rows` that of several with one key lets the one through whose `place` counts. Empty
        where each key has one row, which is the rule: a condition would read them once more.
        """
        several, keys = quoted(name), ", ".join(key)
        if not self._may_repeat(rows, keys):
            return ""
        self._database.execute(
            f"""CREATE TABLE {several} AS SELECT {keys}, {counts} AS counts FROM {rows}
            WHERE ({keys}) IN (SELECT ({keys}) FROM {rows} GROUP BY {keys} HAVING count(*) > 1)
            GROUP BY {keys}"""
        )
        if not self._database.execute(f"FROM {several} LIMIT 1").fetchall():
            return ""
        same = " AND ".join(f"several.{column} = rows.{column}" for column in key)
        return f"WHERE NOT EXISTS (FROM {several} AS several WHERE {same} AND several.counts <> {place})"

    def _may_repeat(self, rows: str, keys: str) -> bool:
        """False where no two rows have one key. Looks at 64 bits of each, in a quarter of the time that it
        takes to group them: two keys may share these by chance.
        """
        [(count,)] = self._database.execute(f"SELECT count(*) FROM {rows}").fetchall()
        if count > HASHED:
            return True
        hashes, at = np.empty(count, np.uint64), 0
        for batch in self._database.sql(f"SELECT hash({keys}) FROM {rows}").to_arrow_reader(ROWS_AT_ONCE):
            hashes[at : at + len(batch)] = batch.column(0).to_numpy()
            at += len(batch)
        hashes.sort()
        return bool((hashes[1:] == hashes[:-1]).any())

    def _plain(self, reference: str, column: str) -> str:
        """A boolean becomes true or false in words."""
        boolean = self._pipeline.field(reference).type == "boolean"
        return f"CAST({column} AS VARCHAR)" if boolean else column


def order_of(rows: pa.Table, keys: Sequence[str]) -> pa.Array | None:
    """Places [N] that put rows, which are in the order of their time, into that of `keys` within each
    moment. None where no two share one.
    """
    times = rows.column(names.TIME).cast(pa.int64()).to_numpy()
    same = times[1:] == times[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    if not len(tied):
        return None
    by = [(name, "ascending") for name in (names.TIME, *keys)]
    order = np.arange(rows.num_rows)
    compared = rows.select([names.TIME, *keys]).take(pa.array(tied))
    order[tied] = tied[pc.sort_indices(compared, sort_keys=by).to_numpy()]
    return pa.array(order)


def _value(column: str, kind: str) -> str:
    # A lake may hold numbers from before ingest bounded them.
    value = f"CAST({column} AS {kind})"
    return f"CASE WHEN abs({value}) <= {MAX_NUMBER} THEN {value} END" if kind == "DOUBLE" else value


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def escaped(path: Path) -> str:
    return str(path).replace("'", "''")
