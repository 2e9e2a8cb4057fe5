"""The lake's file names and what they promise. Pure.

A file's name says which offsets of one records partition it covers: every record in [first, next)
that was not erased is in it. Kafka's log does not change, so a file whose range lies within
another's holds nothing of its own: a merge that was cut short leaves such files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

# Adjacent files of one tier that are merged into one: a partition keeps at most RUN files a tier.
RUN = 8
# Upper bounds of the tiers, rows. Files above the last are left alone.
TIER_ROWS = (1_000, 8_000, 64_000, 512_000)

_NAME = re.compile(r"p(\d{5})-(\d{20})-(\d{20})-e(\d{8})-r(\d{4})\.parquet")


class LakeFile(NamedTuple):
    """A file that covers the records offsets [first, next) of a partition. Sorts by partition and
    offset.

    `epoch` is the owner's: it rises with every process that takes over the source. `revision` rises
    when rows leave.
    """

    partition: int
    first: int
    next: int
    epoch: int
    revision: int = 0

    @property
    def name(self) -> str:
        offsets = f"{self.first:020d}-{self.next:020d}"
        return f"p{self.partition:05d}-{offsets}-e{self.epoch:08d}-r{self.revision:04d}.parquet"


class Footer(NamedTuple):
    """Facts about a file's rows, kept in its footer; None without rows.

    `present`: rows with a value, by column. `events`: the lowest and the highest event offset.
    `newest`: the newest event time. `oldest_ingested`: when ingest published the first of the rows.
    """

    rows: int
    present: Mapping[str, int]
    events: tuple[int, int] | None
    newest: datetime | None
    oldest_ingested: datetime | None


def parse(path: Path) -> LakeFile | None:
    found = _NAME.fullmatch(path.name)
    return LakeFile(*(int(group) for group in found.groups())) if found else None


def divide(files: Iterable[LakeFile]) -> tuple[list[LakeFile], list[LakeFile]]:
    """(those that count, those that hold nothing of their own), each by partition and offset.

    Of two with the same range the higher revision counts (rows left), then the younger owner's.
    """
    counting: list[LakeFile] = []
    shadowed: list[LakeFile] = []
    for file in sorted(files, key=lambda it: (it.partition, it.first, -it.next, -it.revision, -it.epoch)):
        last = counting[-1] if counting else None
        within = last is not None and last.partition == file.partition and file.next <= last.next
        (shadowed if within else counting).append(file)
    return counting, shadowed


def positions(files: Sequence[LakeFile]) -> dict[int, int]:
    """The next offset to read, by partition: the end of the unbroken chain of files. After a lost
    file that is where it began.
    """
    found: dict[int, int] = {}
    for file in sorted(files):
        if file.first <= found.get(file.partition, file.first):
            found[file.partition] = max(file.next, found.get(file.partition, 0))
    return found


def next_merge(files: Sequence[tuple[LakeFile, int]]) -> list[LakeFile]:
    """The adjacent files of one partition to make into one, the smallest tier first; empty when
    there is nothing to do.

    `files`: with their rows, by offset. Each row is rewritten once a tier, so at most len(TIER_ROWS) times.
    """
    for bound in TIER_ROWS:
        run: list[LakeFile] = []
        for file, rows in files:
            follows = not run or (run[-1].partition == file.partition and run[-1].next >= file.first)
            adjacent = rows <= bound and follows
            if not adjacent and len(run) >= RUN:
                break
            run = [*run, file] if adjacent else ([file] if rows <= bound else [])
        if len(run) >= RUN:
            return run
    return []
