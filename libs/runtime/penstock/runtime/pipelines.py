"""The pipelines as they were last applied, for a service that acts on them.

applied = AppliedPipelines("penstock.tally", Keys(settings.platform.keys), follow=lakes.follow)
await service.restores(applied)
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from penstock.contracts.errors import NotFound, PenstockError, Tampered, Unavailable
from penstock.contracts.events import PipelineApplied, PipelineDeleted
from penstock.contracts.pipeline import Pipeline
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys, NoKey
from penstock.runtime.cloud_events import Received
from penstock.runtime.restore import Restored
from penstock.runtime.router import Router, decoded

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Applied:
    """A pipeline as it was applied. `number` rises with each file that is applied for it."""

    pipeline: Pipeline
    number: int
    digest: str


Follow = Callable[[Applied, Applied | None], Awaitable[None] | None]
Forget = Callable[[str, int], Awaitable[None] | None]


class AppliedPipelines(Restored):
    """The newest number of each pipeline that the registry signed. Safe from any thread."""

    def __init__(
        self,
        group: str,
        keys: Keys,
        *,
        follow: Follow = lambda new, old: None,
        forget: Forget = lambda name, number: None,
        stated: Callable[[], None] = lambda: None,
    ) -> None:
        """`keys`: the trust store. `follow` is given each new number, in order, and the one before
        it, None for a new pipeline; it may be async. Others see the new number once it has returned;
        what it raises is treated as the error of a replay's handler.

        `forget` is given a pipeline that was deleted and its last number, once more at each start, and
        where it was applied anew since: what is of a higher number stays. `stated` is called when
        `statements` hold another event.
        """
        self.statements: Mapping[str, PipelineApplied | PipelineDeleted] = {}
        """Newest event of each pipeline as the registry signed it, for who hands it on."""
        self._keys = keys
        self._follow = follow
        self._forget = forget
        self._stated = stated
        self._newest: Mapping[str, Applied] = {}  # replaced as a whole, so readers need no lock
        self._passed: dict[str, int] = {}  # highest number that was followed or deleted
        self._ends: dict[str, int] = {}  # highest number that is deleted, though its events may yet wait
        self._unjudged: list[PipelineDeleted] = []  # deletions that were read while there was no key
        self.router = Router(group)
        self.router.read = self._look_ahead
        self.router.on_replay(PipelineApplied)(self._apply)
        self.router.on_replay(PipelineDeleted)(self._delete)

    @property
    def all(self) -> tuple[Applied, ...]:
        return tuple(self._newest.values())

    def get(self, name: str) -> Applied:
        """Raises NotFound, and Unavailable while it may yet be read."""
        if (found := self._newest.get(name)) is None:
            raise self.missing(name)
        return found

    def missing(self, name: str) -> PenstockError:
        """Returns the error for a pipeline that is not among them; it names the nearest."""
        if not self.complete:
            return Unavailable(
                f"the applied pipelines are still being read, `{name}` is not among those so far",
                remedy="Try again",
            )
        remedy = nearest(name, sorted(self._newest)) or "Apply one first"
        return NotFound(f"no pipeline `{name}`", remedy=remedy)

    def ends(self, name: str, number: int) -> bool:
        """Tells whether the pipeline up to `number` was deleted by an event that has been read: what
        belongs to it is gone, or goes, and is not waited for.
        """
        return self._ends.get(name, 0) >= number

    def _look_ahead(self, received: Received) -> None:
        if received.event_type == PipelineDeleted.ce_type() and received.value is not None:
            with suppress(PenstockError):  # whoever applies it says what is wrong
                event = decoded(received)
                assert isinstance(event, PipelineDeleted)
                self._unjudged.append(event)
        self._judge_deletions()

    def _judge_deletions(self) -> None:
        read, self._unjudged = self._unjudged, []
        for event in read:
            try:
                verify_fact(event, self._keys.trust())
            except NoKey:
                self._unjudged.append(event)
            except PenstockError:
                continue  # whoever applies it says what is wrong
            else:
                self._ends[event.pipeline] = max(event.number, self._ends.get(event.pipeline, 0))

    def verify(self, event: PipelineApplied) -> None:
        """Raises Tampered for what the registry did not sign, or for another file under the newest
        number.
        """
        verify_fact(event, self._keys.trust())
        known = self._newest.get(event.pipeline)
        if known and known.number == event.number and known.digest != event.digest:
            raise Tampered(f"number {event.number} is known as {known.digest}", where=event.pipeline)

    async def _apply(self, event: PipelineApplied) -> None:
        self.verify(event)
        self._judge_deletions()
        if self._passed.get(event.pipeline, 0) >= event.number:
            return  # published twice, or deleted since
        if self.ends(event.pipeline, event.number):
            return
        if event.deleted_before:
            await self._gone(event.pipeline, event.deleted_before)
        old = self._newest.get(event.pipeline)
        new = Applied(event.declared(), event.number, event.digest)
        done = self._follow(new, old)
        if inspect.isawaitable(done):
            await done
        if self.ends(event.pipeline, event.number):
            return  # deleted meanwhile
        self._newest = {**self._newest, event.pipeline: new}
        self._passed[event.pipeline] = new.number
        self._state(event)
        log.info("pipeline_followed", pipeline=event.pipeline, number=new.number)

    async def _delete(self, event: PipelineDeleted) -> None:
        verify_fact(event, self._keys.trust())
        if await self._gone(event.pipeline, event.number):
            self._state(event)

    def _state(self, event: PipelineApplied | PipelineDeleted) -> None:
        self.statements = {**self.statements, event.pipeline: event}
        self._stated()

    async def _gone(self, name: str, number: int) -> bool:
        """Forgets the pipeline up to `number`; False where it was applied anew since."""
        old = self._newest.get(name)
        if old is not None and old.number > number:
            return False
        done = self._forget(name, number)
        if inspect.isawaitable(done):
            await done
        self._newest = {known: one for known, one in self._newest.items() if known != name}
        self._passed[name] = max(number, self._passed.get(name, 0))
        if old is not None:
            log.info("pipeline_forgotten", pipeline=name, number=number)
        return True


def nearest(name: str, known: list[str]) -> str:
    """A remedy for a name that does not exist; empty where none does."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"There is {', '.join(known)}" if known else ""
