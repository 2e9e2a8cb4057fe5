"""The lake: one source's records as Parquet files, with the consumer's position in their names.

One process owns a source (`Lake` holds a lock on its folder); within it, one thread appends, one
merges, others read. A file appears by rename after fsync, so that a crash at any moment leaves the
lake as it was before or after, and the position with it. Readers take rows once by (event
partition, event offset).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from penstock.contracts.errors import Conflict
from penstock_feature_store import names
from penstock_feature_store.lake import durable
from penstock_feature_store.lake.batches import united
from penstock_feature_store.lake.files import Footer, LakeFile, divide, next_merge, parse, positions
from penstock_feature_store.lake.reading import (
    apart,
    count_in,
    footer_of,
    once,
    read_rows,
    settled,
    values_in,
)

log = structlog.get_logger(__name__)

_ROW_GROUP = 65_536  # rows
_COMPRESSED: Mapping[str, Any] = {"compression": "zstd", "compression_level": 1}


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
        # Every column of every file.
        self.schema = united(pq.read_schema(folder / file.name) for file in counting)

    # -- write -------------------------------------------------------------------------------------

    def append(self, partition: int, first: int, next_offset: int, table: pa.Table) -> None:
        """The records of [first, next_offset) of one partition, durable when it returns. An empty
        range is nothing to do.
        """
        if next_offset <= first:
            return
        table = once(table)
        with self._lock:
            self._write(LakeFile(partition, first, next_offset, self._epoch), table)
            self.schema = united([self.schema, table.schema])

    def merge(self) -> int:
        """Makes small files into larger ones until each partition has few; returns how many files
        went. For one thread at a time.
        """
        gone = 0
        while merged := self._merge(self._by_offset()):
            gone += merged
        return gone

    def erase(self, entity: str) -> int:
        """Rewrites the files that hold the entity's rows without them; returns the number of rows.
        Safe to repeat after a crash.
        """
        return self._remove(pc.field(names.ENTITY) == entity, self._by_offset())

    def expire(self, before: datetime) -> int:
        """Rewrites the files with rows that ingest published before this moment without them;
        returns the number of rows.

        Files are rewritten once a day at most: rows leave up to a day late.
        """
        due = [
            (file, footer)
            for file, footer in self._by_offset()
            if footer.oldest_ingested and footer.oldest_ingested < before - timedelta(days=1)
        ]
        return self._remove(pc.field(names.INGESTED) < before, due)

    # -- read --------------------------------------------------------------------------------------

    def positions(self) -> dict[int, int]:
        """The next offset to read of the records topic, by partition."""
        with self._lock:
            return positions(list(self._files))

    def events(self) -> dict[int, int]:
        """The offset after the last event whose record is here, by partition."""
        found: dict[int, int] = {}
        for file, footer in self._by_offset():
            if footer.events:
                found[file.partition] = max(found.get(file.partition, 0), footer.events[1] + 1)
        return found

    def newest(self) -> datetime | None:
        """The newest event time."""
        return max((footer.newest for _, footer in self._by_offset() if footer.newest), default=None)

    @settled
    def count(self, column: str = names.ID, since: Mapping[int, int] | None = None) -> int:
        """Rows with a value in `column` at records offsets not below `since` (by partition; absent:
        all). Reads footers where it can.
        """
        since, files = since or {}, self._by_offset()
        if apart(files):
            return sum(
                count_in(self.folder, file, footer, column, since.get(file.partition, 0))
                for file, footer in files
            )
        table = once(self.read(list(dict.fromkeys([names.PARTITION, names.OFFSET, names.RECORD, column]))))
        starts = [since.get(partition, 0) for partition in table.column(names.PARTITION).to_pylist()]
        later = pc.greater_equal(table.column(names.RECORD), pa.array(starts, pa.int64()))
        return values_in(table.filter(later), column)

    def count_here(self, column: str, since: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """`count`, and the positions of the same moment."""
        with self._lock:
            return self.count(column, since), self.positions()

    def entities(self) -> int:
        """Distinct entities. Reads one column of every file."""
        return int(pc.count_distinct(self.read([names.ENTITY]).column(names.ENTITY)).as_py())

    def file_count(self) -> int:
        return len(self._files)

    @settled
    def read(self, columns: Sequence[str] | None = None, keep: pc.Expression | None = None) -> pa.Table:
        """Rows of all files, missing columns null. A row may come twice where files overlap; `once`
        drops the repeats.
        """
        schema = self.schema
        if columns is not None:
            known = set(schema.names)
            schema = pa.schema(
                schema.field(name) if name in known else pa.field(name, pa.null()) for name in columns
            )
        parts = [read_rows(self.folder / file.name, schema, keep) for file, _ in self._by_offset()]
        return pa.concat_tables(parts) if parts else schema.empty_table()

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
            for file in self._files:
                os.link(self.folder / file.name, folder / file.name)
            return self.positions()

    # -- inside ------------------------------------------------------------------------------------

    def _by_offset(self) -> list[tuple[LakeFile, Footer]]:
        with self._lock:
            return sorted(self._files.items(), key=lambda item: item[0])

    def _write(self, file: LakeFile, table: pa.Table) -> None:
        path = self.folder / file.name
        with durable.arriving(path) as unfinished:
            pq.write_table(table, unfinished, row_group_size=_ROW_GROUP, **_COMPRESSED)
        self._files[file] = footer_of(path)

    def _remove(self, leaves: pc.Expression, files: Iterable[tuple[LakeFile, Footer]]) -> int:
        gone = 0
        for file, footer in files:
            path = self.folder / file.name
            with self._lock:
                if file not in self._files:
                    continue
                if not pq.read_table(path, columns=[names.ID], filters=leaves).num_rows:
                    continue
                kept = pq.read_table(path, filters=~leaves | leaves.is_null())
                self._write(file._replace(epoch=self._epoch, revision=file.revision + 1), kept)
                self._drop([file])
            gone += footer.rows - kept.num_rows
        return gone

    def _drop(self, files: Sequence[LakeFile]) -> None:
        for file in files:
            self._files.pop(file, None)
            (self.folder / file.name).unlink(missing_ok=True)
        durable.sync(self.folder)

    def _merge(self, files: Sequence[tuple[LakeFile, Footer]]) -> int:
        """Merges the next run; returns how many files went.

        It is written aside without the lock, which appending needs, and taken in only if no row
        left the run's files meanwhile.
        """
        run = next_merge([(file, footer.rows) for file, footer in files])
        if not run:
            return 0
        merged = LakeFile(run[0].partition, run[0].first, max(file.next for file in run), self._epoch)
        path = self.folder / merged.name
        aside = durable.unfinished(path)
        try:
            schema = united(pq.read_schema(self.folder / file.name) for file in run)
            tables: Iterable[pa.Table] = (read_rows(self.folder / file.name, schema) for file in run)
            if not apart([(file, footer) for file, footer in files if file in run]):
                tables = [once(pa.concat_tables(tables))]
            with pq.ParquetWriter(aside, schema, **_COMPRESSED) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=_ROW_GROUP)
            durable.sync(aside)
            with self._lock:
                if any(file not in self._files for file in run):
                    return 0
                durable.place(aside, path)
                self._files[merged] = footer_of(path)
                self._drop(run)
        except FileNotFoundError:  # rows left it meanwhile
            return 0
        finally:
            aside.unlink(missing_ok=True)
        log.debug("files_merged", source=self.folder.name, files=len(run))
        return len(run) - 1


class Lake:
    """Sources of all pipelines below one folder, which one process owns at a time, also of
    several machines that share it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sources: dict[Path, SourceLake] = {}
        self._lock = threading.Lock()
        self.held: IO[str] | None = None  # the lock's file, while this process owns the lake

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
        self.held = held
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            self.held.close()
            self.held = None

    def source(self, pipeline: str, source: str) -> SourceLake:
        """Opened at first use and kept."""
        folder = self.root / pipeline / source
        with self._lock:
            if folder not in self._sources:
                self._sources[folder] = SourceLake(folder)
            return self._sources[folder]

    def remove(self, pipeline: str) -> None:
        """Removes all sources of a pipeline; missing is fine. Nobody may be writing to them."""
        folder = self.root / pipeline
        with self._lock:
            for source in [source for source in self._sources if source.parent == folder]:
                del self._sources[source]
        if folder.exists():
            shutil.rmtree(folder)
            durable.sync(self.root)

    def opened(self) -> list[SourceLake]:
        with self._lock:
            return list(self._sources.values())
