"""The lake: one source's records as Parquet files, with the consumer's position in their names.

One process owns a source (`Lake` holds a lock on its folder); within it, one thread appends, one
merges, others read. A file appears by rename after fsync, so that a crash at any moment leaves the
lake as it was before or after, and the position with it. Readers take rows once by (event
partition, event offset).
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from penstock.contracts.errors import Conflict
from penstock_feature_store import names
from penstock_feature_store.lake import durable
from penstock_feature_store.lake.batches import united
from penstock_feature_store.lake.files import Footer, LakeFile, divide, next_merge, parse, positions
from penstock_feature_store.lake.reading import _DAY_US, apart, field, footer_of, once, read_rows, settled, us

log = structlog.get_logger(__name__)

_ROW_GROUP = 65_536


class SourceLake:
    """The files of one source. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Opens the folder and clears away what a crash left. Raises OSError."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f"{durable.UNFINISHED}*"):
            unfinished.unlink()
        found = [file for path in folder.iterdir() if (file := parse(path))]
        counting, shadowed = divide(found)
        for file in shadowed:
            (folder / file.name).unlink()
        self._files: dict[LakeFile, Footer] = {file: footer_of(folder / file.name) for file in counting}
        self._epoch = max((file.epoch for file in found), default=0) + 1
        self._lock = threading.RLock()
        self._straddling: dict[tuple[LakeFile, int, str], int] = {}
        self.schema = united(pq.read_schema(folder / file.name) for file in counting)
        """Every column of every file."""

    # -- write -------------------------------------------------------------------------------------

    def append(self, partition: int, first: int, next_offset: int, table: pa.Table) -> None:
        """The records of [first, next_offset) of one partition, durable when it returns. An empty
        range is nothing to do.
        """
        if next_offset <= first:
            return
        table = once(table)
        file = LakeFile(partition, first, next_offset, self._epoch)
        with self._lock:
            self._write(file, table)
            self.schema = united([self.schema, table.schema])

    def merge(self) -> int:
        """Makes small files into larger ones until each partition has few; returns how many files
        went. For one thread at a time.
        """
        gone = 0
        for partition in sorted({file.partition for file in self._files}):
            while run := next_merge(
                [(file, footer.rows) for file, footer in self._by_offset() if file.partition == partition]
            ):
                merged = self._merge(run)
                gone += merged
                if not merged:
                    break
        return gone

    def erase(self, entity: str) -> int:
        """Rewrites the files that hold the entity's rows without them; returns the number of rows.
        Safe to repeat after a crash.
        """
        return self._remove(names.ENTITY, lambda column: pc.equal(column, entity), list(self._by_offset()))

    def expire(self, before: datetime) -> int:
        """Rewrites the files with rows that ingest published before this moment without them;
        returns the number of rows.

        Files are rewritten once a day at most: rows leave up to a day late.
        """
        bound = us(before)
        due = [
            (file, footer)
            for file, footer in self._by_offset()
            if (footer.oldest_ingested_us or bound) < bound - _DAY_US
        ]
        return self._remove(
            names.INGESTED, lambda column: pc.less(column, pa.scalar(before, column.type)), due
        )

    # -- read --------------------------------------------------------------------------------------

    def positions(self) -> dict[int, int]:
        """The next offset to read of the records topic, by partition."""
        with self._lock:
            return positions(list(self._files))

    def events(self) -> dict[int, tuple[int, int]]:
        """[first, last) offsets of the events whose records are here, by partition."""
        ranges: dict[int, tuple[int, int]] = {}
        for file, footer in self._by_offset():
            if footer.events:
                low, high = ranges.get(file.partition, (footer.events[0], 0))
                ranges[file.partition] = (min(low, footer.events[0]), max(high, footer.events[1] + 1))
        return ranges

    def newest_us(self) -> int | None:
        """The newest event time, microseconds since the epoch."""
        with self._lock:
            return max(
                (footer.newest_us for footer in self._files.values() if footer.newest_us is not None),
                default=None,
            )

    def count(self, column: str = names.ID, since: Mapping[int, int] | None = None) -> int:
        """Rows with a value in `column` at records offsets not below `since` (by partition; absent:
        all). Reads footers where it can.
        """

        def attempt() -> int:
            files = self._by_offset()
            if not apart(files):
                return self._count_once(column, since or {})
            return sum(
                self._count_file(file, footer, column, (since or {}).get(file.partition, 0))
                for file, footer in files
            )

        return settled(attempt)

    def count_here(self, column: str, since: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """`count`, and the positions of the same moment."""
        with self._lock:
            return self.count(column, since), self.positions()

    def entities(self) -> int:
        """Distinct entities. Reads one column of every file."""
        table = self.read([names.ENTITY])
        return int(pc.count_distinct(table.column(names.ENTITY)).as_py())

    def file_count(self) -> int:
        return len(self._files)

    def read(self, columns: Sequence[str] | None = None, keep: pc.Expression | None = None) -> pa.Table:
        """Rows of all files, missing columns null. A row may come twice where files overlap; `once`
        drops the repeats.
        """

        def attempt() -> pa.Table:
            schema = (
                self.schema
                if columns is None
                else pa.schema([field(self.schema, column) for column in columns])
            )
            parts = [read_rows(self.folder / file.name, schema, keep) for file, _ in self._by_offset()]
            return pa.concat_tables(parts) if parts else schema.empty_table()

        return settled(attempt)

    def since(self, start: Mapping[int, int], rows: int) -> Iterator[tuple[int, int, pa.Table]]:
        """(partition, the offset after these rows, rows) at records offsets not below `start`,
        about `rows` at a time, in order.
        """
        for file, _ in self._by_offset():
            at = start.get(file.partition, 0)
            if file.next <= at:
                continue
            table = read_rows(self.folder / file.name, self.schema, pc.field(names.RECORD) >= at)
            for begin in range(0, max(table.num_rows, 1), rows):
                part = table.slice(begin, rows)
                last = begin + rows >= table.num_rows
                yield file.partition, file.next if last else part.column(names.RECORD)[-1].as_py() + 1, part

    def link(self, folder: Path) -> dict[int, int]:
        """Hard links to all files as they are now, so that a merge does not disturb who reads them;
        and the positions they reach.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for file, _ in self._by_offset():
                os.link(self.folder / file.name, folder / file.name)
            return self.positions()

    # -- inside ------------------------------------------------------------------------------------

    def _by_offset(self) -> list[tuple[LakeFile, Footer]]:
        with self._lock:
            return sorted(self._files.items(), key=lambda item: (item[0].partition, item[0].first))

    def _write(self, file: LakeFile, table: pa.Table) -> None:
        path = self.folder / file.name
        with durable.arriving(path) as unfinished:
            pq.write_table(
                table, unfinished, compression="zstd", compression_level=1, row_group_size=_ROW_GROUP
            )
        self._files[file] = footer_of(path)

    def _remove(
        self,
        column: str,
        leaves: Callable[[pa.ChunkedArray], pa.ChunkedArray],
        files: Sequence[tuple[LakeFile, Footer]],
    ) -> int:
        gone = 0
        for file, footer in files:
            with self._lock:
                if file not in self._files:
                    continue
                leaving = leaves(pq.read_table(self.folder / file.name, columns=[column]).column(column))
                if not pc.any(leaving).as_py():
                    continue
                kept = pq.read_table(self.folder / file.name).filter(pc.invert(pc.fill_null(leaving, False)))
                self._write(
                    LakeFile(file.partition, file.first, file.next, self._epoch, file.revision + 1), kept
                )
                self._drop([file])
                gone += footer.rows - kept.num_rows
        return gone

    def _drop(self, files: Sequence[LakeFile]) -> None:
        for file in files:
            self._files.pop(file, None)
            (self.folder / file.name).unlink(missing_ok=True)
        durable.sync(self.folder)

    def _merge(self, run: Sequence[LakeFile]) -> int:
        """Written aside without the lock, which appending needs; taken in only if no row left the
        run's files meanwhile.
        """
        merged = LakeFile(run[0].partition, run[0].first, max(file.next for file in run), self._epoch)
        schema = united(pq.read_schema(self.folder / file.name) for file in run)
        path = self.folder / merged.name
        aside = durable.unfinished(path)
        try:
            with pq.ParquetWriter(aside, schema, compression="zstd", compression_level=1) as writer:
                for table in self._merged(run, schema):
                    writer.write_table(table, row_group_size=_ROW_GROUP)
            durable.sync(aside)
            with self._lock:
                if any(file not in self._files for file in run):
                    return 0
                durable.place(aside, path)
                self._files[merged] = footer_of(path)
                self._drop(run)
        finally:
            aside.unlink(missing_ok=True)
        log.debug("files_merged", source=self.folder.name, files=len(run), rows=self._files[merged].rows)
        return len(run) - 1

    def _merged(self, run: Sequence[LakeFile], schema: pa.Schema) -> Iterator[pa.Table]:
        tables = (read_rows(self.folder / file.name, schema) for file in run)
        if apart([(file, self._files[file]) for file in run]):
            yield from tables
        else:
            yield once(pa.concat_tables(tables))

    def _count_file(self, file: LakeFile, footer: Footer, column: str, since: int) -> int:
        if since <= file.first or not footer.rows:
            return footer.present.get(column, 0)
        if since >= file.next or column not in footer.present:
            return 0
        key = (file, since, column)
        if key not in self._straddling:
            table = pq.read_table(self.folder / file.name, columns=[names.RECORD, column])
            rows = table.filter(pc.greater_equal(table.column(names.RECORD), since))
            if len(self._straddling) > 64:
                self._straddling.clear()
            self._straddling[key] = rows.num_rows - rows.column(column).null_count
        return self._straddling[key]

    def _count_once(self, column: str, since: Mapping[int, int]) -> int:
        table = once(self.read(list(dict.fromkeys([names.PARTITION, names.OFFSET, names.RECORD, column]))))
        starts = pa.array(
            [since.get(partition, 0) for partition in table.column(names.PARTITION).to_pylist()], pa.int64()
        )
        rows = table.filter(pc.greater_equal(table.column(names.RECORD), starts))
        return int(rows.num_rows - rows.column(column).null_count)


class Lake:
    """All sources of all pipelines below one folder, which one process owns at a time, also of
    several machines that share it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sources: dict[tuple[str, str], SourceLake] = {}
        self._lock = threading.Lock()
        self._held: IO[str] | None = None

    def __enter__(self) -> Self:
        """Takes the folder. Raises Conflict while another process has it."""
        self.root.mkdir(parents=True, exist_ok=True)
        held = (self.root / "owner.lock").open("a")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held.close()
            raise Conflict(
                "another process writes this lake",
                where=str(self.root),
                remedy="Stop it, or give this one its own PENSTOCK_HOME",
            ) from error
        self._held = held
        return self

    @property
    def held(self) -> bool:
        """True while this process holds the lake."""
        return self._held is not None

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held.close()
            self._held = None

    def source(self, pipeline: str, source: str) -> SourceLake:
        """Opened at first use and kept."""
        with self._lock:
            key = (pipeline, source)
            if key not in self._sources:
                self._sources[key] = SourceLake(self.root / pipeline / source)
            return self._sources[key]

    def opened(self) -> list[tuple[str, str, SourceLake]]:
        with self._lock:
            return [(pipeline, source, lake) for (pipeline, source), lake in self._sources.items()]
