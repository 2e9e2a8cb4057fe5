"""Applied pipeline files at the site: the newest of each pipeline that the registry signed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from penstock.contracts.errors import NotFound, PenstockError
from penstock.contracts.events import PipelineApplied, PipelineDeleted
from penstock.contracts.pipeline import Pipeline
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys
from penstock_edge_gateway.private_file import write_private

log = structlog.get_logger(__name__)

UNREAD: Final = "its file at this site cannot be read; whether it was stopped is known once the hub tells it"


class Pipelines:
    """A file a pipeline in `folder`, its event as JSON with the signed statement. The trust store in
    `keys` is read anew each time. Methods block for the disk, but for `get`.
    """

    def __init__(self, folder: Path, keys: Path) -> None:
        self._folder = folder
        self._keys = Keys(keys)
        self._applied: dict[str, Pipeline] = {}
        self._numbers: dict[str, int] = {}  # of deleted ones, too: no older file comes back
        self._beyond: dict[str, int] = {}  # of files that only a newer release reads
        self._unread: set[str] = set()  # whose file is on the disk, and damaged or not signed any more

    @property
    def numbers(self) -> dict[str, int]:
        """Newest number by pipeline that need not be told again: who tells the hub of a deleted one is told
        again at once that it was.
        """
        return {name: self._numbers[name] for name in list(self._applied)} | self._beyond

    def get(self, name: str) -> Pipeline:
        """Raises NotFound."""
        if found := self._applied.get(name):
            return found
        known = ", ".join(sorted(self._applied))
        raise NotFound(f"this site has no pipeline {name!r}", remedy=f"There is {known}" if known else None)

    def stopped(self, name: str) -> str:
        """Reason why no version of the pipeline may answer; empty where one may."""
        if name in self._unread:  # it may say `stopped`
            return UNREAD
        found = self._applied.get(name)
        return (found and found.serving.stopped) or ""

    def number(self, name: str) -> int:
        """Number of the file that `get` finds. Raises KeyError."""
        return self._numbers[name]

    def restore(self) -> None:
        """Reads what the disk holds; what is not signed any more, or damaged, comes again from the hub."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                event = PipelineApplied.model_validate_json(path.read_bytes())
                verify_fact(event, self._keys.trust())
                self._follow(event, event.declared())
            except (PenstockError, OSError, ValueError) as error:
                self._unread.add(path.stem)
                log.warning("pipeline_not_read", pipeline=path.stem, reason=str(error))

    def apply(self, event: PipelineApplied) -> None:
        """Takes a newer number in. Raises Tampered for what the registry did not sign; Invalid and
        ValidationError for what this release does not read: the file before it holds until an upgrade.
        """
        if event.number > self._numbers.get(event.pipeline, 0):
            verify_fact(event, self._keys.trust())
            self._beyond[event.pipeline] = event.number
            declared = event.declared()
            del self._beyond[event.pipeline]
            write_private(self._folder / f"{event.pipeline}.json", event.model_dump_json().encode())
            self._follow(event, declared)

    def delete(self, event: PipelineDeleted) -> None:
        """Forgets a pipeline up to a number. Raises Tampered as `apply`."""
        verify_fact(event, self._keys.trust())
        if event.number >= self._numbers.get(event.pipeline, 0):
            (self._folder / f"{event.pipeline}.json").unlink(missing_ok=True)
            self._applied.pop(event.pipeline, None)
            self._beyond.pop(event.pipeline, None)
            self._unread.discard(event.pipeline)
            self._numbers[event.pipeline] = event.number

    def _follow(self, event: PipelineApplied, declared: Pipeline) -> None:
        self._applied[event.pipeline] = declared
        self._numbers[event.pipeline] = event.number
        self._unread.discard(event.pipeline)
