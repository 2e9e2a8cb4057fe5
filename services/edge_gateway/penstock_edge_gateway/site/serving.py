"""Versions that the site serves, each from its own disk: restored at a start without any network,
tried beside the old one, probed, switched to, taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from penstock.contracts.dataplane import Degraded
from penstock.contracts.errors import TREATMENTS, NotFound, PenstockError, Refused, Tampered, Unavailable
from penstock.contracts.events import ModelVersionPromoted
from penstock.contracts.versions import version_name
from penstock.packages.admission import Admission
from penstock.runtime.backoff import Backoff
from penstock.runtime.readiness import Readiness
from penstock.serving.model import Model
from penstock.serving.rows import find_model, stopped
from penstock_edge_gateway.site.engine import Engine
from penstock_edge_gateway.site.trial import Bounds, Trial
from penstock_edge_gateway.site.versions import Kept, Refusal, Versions

log = structlog.get_logger(__name__)

LONGEST_RETRY_S: Final = 60.0


@dataclass(frozen=True)
class Missing:
    """Promoted version that cannot answer here."""

    why: Degraded
    pipeline_number: int  # of the pipeline file that it was made by; 0: not known


@dataclass(frozen=True, eq=False)
class Version:
    """Version that is loaded and answers."""

    engine: Engine
    since: datetime
    trial: Trial | None  # None where there is no other to go back to

    @property
    def model(self) -> Model:
        return self.engine.model


class Serving:
    """Served versions by pipeline. On the event loop's thread."""

    def __init__(
        self,
        versions: Versions,
        admission: Admission,
        bounds: Bounds,
        readiness: Readiness,
        clock: Callable[[], datetime],
        why_stopped: Callable[[str], str],
    ) -> None:
        """`why_stopped`: reason why a pipeline may not answer, else empty; its versions are kept."""
        self._versions = versions
        self._admission = admission
        self._bounds = bounds
        self._readiness = readiness
        self._clock = clock
        self.why_stopped = why_stopped
        self._kept: dict[str, Kept] = {}  # as it is on the disk
        self._live: dict[str, Version] = {}
        self._due: dict[str, ModelVersionPromoted] = {}  # newest promotion to be tried, by pipeline
        self._failing: dict[Version, str] = {}  # versions to be taken back, and the reason
        self._proven: list[Version] = []  # whose trial has ended well
        self._doubts = 0  # changes of the trust store so far
        self._verified = 0  # of them, those after which all that serves was verified
        self._changing = asyncio.Lock()  # of what serves, and of what is kept
        self._wake = asyncio.Event()  # for what is due
        self._alarm = asyncio.Event()
        self._delay = Backoff(first=1.0, longest=LONGEST_RETRY_S)

    # -- asking ------------------------------------------------------------------------------------

    @property
    def versions(self) -> Mapping[str, Version]:
        """Served versions by pipeline. From any thread."""
        return {name: version for name, version in list(self._live.items()) if not self.why_stopped(name)}

    @property
    def models(self) -> dict[str, Model]:
        return {pipeline: version.model for pipeline, version in self.versions.items()}

    @property
    def kept(self) -> Mapping[str, Kept]:
        """State of each pipeline that this site has ever been offered."""
        return self._kept

    def facts(self) -> dict[str, str]:
        """Versions that answer, and pipelines that may not, for the status. From any thread."""
        serves = ", ".join(_name(model.promotion) for model in self.models.values())
        stops = {name: why for name in list(self._kept) if (why := self.why_stopped(name))}
        told = {f"stopped {name}": f"{name} is stopped: {why}" for name, why in stops.items()}
        return told | ({"serving": serves} if serves else {})

    def version(self, pipeline: str, generation: str = "") -> Version:
        """Served version, which must be `generation` where one is asked for. Raises NotFound, and Conflict
        where the pipeline is stopped.
        """
        if why := self.why_stopped(pipeline):
            raise stopped(pipeline, why)
        model = find_model(self.models, pipeline)
        if generation not in ("", str(model.generation)):
            raise NotFound(
                f"{pipeline} serves generation {model.generation}, not {generation}",
                remedy="Ask without a version",
            )
        return self._live[pipeline]

    def generations(self) -> dict[str, int]:
        """Newest generation by pipeline that was admitted or refused, or waits: an offer beyond is new."""
        settled = {pipeline: kept.settled for pipeline, kept in self._kept.items()}
        return settled | {pipeline: waiting.generation for pipeline, waiting in self._due.items()}

    def degraded(self, version: Version) -> Degraded | None:
        """Tells whether a newer version than the one that answers was promoted."""
        newer = self._newest(version.model.pipeline)
        return "older_version" if newer and newer.generation > version.model.generation else None

    def missing(self, pipeline: str) -> Missing | None:
        """Promoted version that this site should serve and does not, where it has no other."""
        newest = None if pipeline in self._live else self._newest(pipeline)
        if isinstance(newest, Refusal):
            return Missing("refused_version", newest.pipeline_number)
        return Missing("no_version", newest.version.pipeline_number) if newest else None

    def _newest(self, pipeline: str) -> ModelVersionPromoted | Refusal | None:
        # Of those that wait or were refused.
        found = self._due.get(pipeline), self._of(pipeline).refused
        if found == (None, None):  # as a rule, and with each answer
            return None
        return max((one for one in found if one), key=lambda one: one.generation, default=None)

    def say(self, pipeline: str, text: str) -> None:
        """Tells in the status what keeps a pipeline's next version from serving; nothing takes it back."""
        self._readiness.fact(f"next {pipeline}", text)

    # -- counting ----------------------------------------------------------------------------------

    def answered(self, version: Version, row_ms: float) -> None:
        """Counts a call that took `row_ms` a row; a version on trial may be taken back for it."""
        self._judge(version, version.trial.answered(row_ms) if version.trial else None)

    def failed(self, version: Version) -> None:
        """Counts a call on which the graph failed."""
        self._judge(version, version.trial.failed() if version.trial else None)

    def _judge(self, version: Version, reason: str | None) -> None:
        if version.trial is None or self._live.get(version.model.pipeline) is not version:
            return
        if reason:
            self._failing[version] = reason
        elif version.trial.ends:
            self._proven.append(version)
        else:
            return
        self._alarm.set()

    # -- keeping -----------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Verifies and loads what is to serve, with no network."""
        await self._verify()
        for pipeline, kept in self._kept.items():
            await asyncio.to_thread(self._admission.keep_only, pipeline, kept.generations)

    def promoted(self, promotion: ModelVersionPromoted) -> None:
        """Takes a promotion in; it is tried soon, and again while it fails for a passing reason."""
        waits = self._due.get(promotion.version.pipeline)
        if waits is None or waits.generation < promotion.generation:
            self._due[promotion.version.pipeline] = promotion
            self._wake.set()

    def doubt(self) -> None:
        """Has all that serves verified anew: the trust store has changed."""
        self._doubts += 1
        self._alarm.set()

    async def run(self) -> None:
        """Tries what is due and takes back what fails, for as long as the process lives."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._advance())
            both.create_task(self._guard())

    async def _guard(self) -> None:
        # Waits for no package: one is fetched for as long as the hub is away.
        while True:
            self._alarm.clear()
            while self._failing:
                await self._take_back(*self._failing.popitem())
            while self._proven:
                await self._prove(self._proven.pop())
            if self._verified < self._doubts:
                await self._verify()
            await self._alarm.wait()

    async def _advance(self) -> None:
        while True:
            self._wake.clear()
            for promotion in list(self._due.values()):
                await self._try(promotion)
            if not self._due:
                self._delay.reset()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._delay.next() if self._due else None)

    async def _verify(self) -> None:
        async with self._changing:
            self._verified = self._doubts
            for pipeline in await asyncio.to_thread(self._versions.pipelines):
                try:
                    self._kept[pipeline] = await asyncio.to_thread(self._versions.of, pipeline)
                    await self._restore(pipeline)
                except (PenstockError, OSError) as error:
                    log.warning("not_restored", pipeline=pipeline, reason=str(error))
                    self._readiness.waits_for(f"model {pipeline}", str(error))

    async def _restore(self, pipeline: str) -> None:
        # What its evidence no longer carries is taken back; what the disk has damaged is fetched again
        # once the hub answers, and the last good version serves until then.
        for promotion in filter(None, (self._kept[pipeline].serving, self._kept[pipeline].last_good)):
            try:
                self._show(await self._stored(promotion))
                return
            except Refused as error:
                await self._keep(pipeline, self._kept[pipeline].loses(promotion, str(error)))
            except Tampered as error:
                log.warning("damaged", pipeline=pipeline, generation=promotion.generation, reason=str(error))
                self._due.setdefault(pipeline, promotion)
                self._wake.set()
        self._live.pop(pipeline, None)

    async def _try(self, promotion: ModelVersionPromoted) -> None:
        # It stays due where time, or room on the disk, may help.
        pipeline = promotion.version.pipeline
        try:
            if not self._settled(promotion):
                await self._decide(promotion)
        except (PenstockError, OSError) as error:
            self.say(pipeline, f"{_name(promotion)} waits: {error}")
            return
        if self._due.get(pipeline) is promotion:
            del self._due[pipeline]

    async def _decide(self, promotion: ModelVersionPromoted) -> None:
        # Has it serve, or refuses it for good.
        pipeline, doubts, admitted = promotion.version.pipeline, self._doubts, False
        try:
            package = await asyncio.to_thread(self._admission.admit, promotion, self._of(pipeline).newest)
            admitted = True
            engine = await asyncio.to_thread(Engine.probed, Model(promotion, package))
        except PenstockError as error:
            if TREATMENTS[error.kind].retry:
                raise
            log.warning("refused", pipeline=pipeline, generation=promotion.generation, reason=str(error))
            async with self._changing:
                kept = self._of(pipeline).admitted(promotion) if admitted else self._of(pipeline)
                await self._keep(pipeline, kept.refuses(promotion, str(error)))
            return
        async with self._changing:
            if self._doubts > doubts:
                raise Unavailable("the trust store has changed since it was verified")
            await self._keep(pipeline, self._of(pipeline).admitted(promotion).serves(promotion))
            self._show(engine)
        await asyncio.to_thread(self._admission.keep_only, pipeline, self._kept[pipeline].generations)

    def _of(self, pipeline: str) -> Kept:
        return self._kept.get(pipeline, Kept())

    def _settled(self, promotion: ModelVersionPromoted) -> bool:
        # Whether it serves, or was refused, for the same bytes as the same generation.
        pipeline = promotion.version.pipeline
        live = self._live.get(pipeline)
        settled = (live and live.model, self._of(pipeline).refused)
        asked = promotion.generation, promotion.version.digest
        return any((one.generation, one.digest) == asked for one in settled if one)

    async def _take_back(self, version: Version, reason: str) -> None:
        pipeline = version.model.pipeline
        async with self._changing:
            if self._live.get(pipeline) is not version:
                return
            kept = self._kept[pipeline].taken_back(reason)
            if kept.serving is None:
                return
            try:
                engine = await self._stored(kept.serving)
                await self._keep(pipeline, kept)
            except (PenstockError, OSError) as error:
                log.warning("not_taken_back", pipeline=pipeline, reason=str(error))
                return
            log.warning("taken_back", pipeline=pipeline, generation=engine.model.generation, reason=reason)
            self._show(engine)
        await asyncio.to_thread(self._admission.forget, pipeline, version.model.generation)

    async def _prove(self, version: Version) -> None:
        # Or a few slow calls after a start would take back what has served for months.
        pipeline = version.model.pipeline
        async with self._changing:
            if self._live.get(pipeline) is version:
                try:
                    await self._keep(pipeline, self._kept[pipeline].proves(version.model.generation))
                except OSError as error:
                    log.warning("proof_not_kept", pipeline=pipeline, reason=str(error))

    async def _stored(self, promotion: ModelVersionPromoted) -> Engine:
        package = await asyncio.to_thread(self._admission.stored, promotion)
        return await asyncio.to_thread(Engine.probed, Model(promotion, package))

    async def _keep(self, pipeline: str, kept: Kept) -> None:
        await asyncio.to_thread(self._versions.keep, pipeline, kept)
        self._kept[pipeline] = kept
        said = f"{pipeline} generation {no.generation} refused: {no.reason}" if (no := kept.refused) else ""
        self.say(pipeline, said)

    def _show(self, engine: Engine) -> None:
        # From here on it answers; calls in hand end on the version that they began with.
        model = engine.model
        kept = self._kept[model.pipeline]
        tried = kept.last_good in (None, model.promotion) or kept.proven == model.generation
        trial = None if tried else Trial(self._bounds)
        self._live[model.pipeline] = Version(engine, self._clock(), trial)
        self._readiness.has(f"model {model.pipeline}")
        log.info("serving", pipeline=model.pipeline, generation=model.generation, digest=model.digest)


def _name(promotion: ModelVersionPromoted) -> str:
    version = version_name(promotion.version.pipeline, promotion.version.digest)
    return f"{version} generation {promotion.generation}"
