"""Deployments: for each pipeline, which version it should serve, which it serves, which was
refused.

What must survive a restart is in the database (`store.py`) and here; a change is durable before it
shows. The rest, such as promotions that wait, comes back from Kafka at each start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from penstock.contracts.errors import Unavailable
from penstock.contracts.events import DeploymentChanged, ModelVersionPromoted, RefusedDeployment, Served
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.versions import version_name
from penstock.packages.evidence import Known
from penstock.packages.keys import Keys
from penstock.runtime.pipelines import Applied, AppliedPipelines
from penstock.runtime.store import Store
from penstock.serving.model import Layout, Model
from penstock.serving.rows import find_model, stopped
from penstock_inference import store as tables

GROUP: Final = "penstock.inference"
LONGEST_BACKOFF_S: Final = 30.0


class Deployment:
    """State of one pipeline. The event loop changes it; other threads may read it."""

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        # Version that serves, and since when, as the database has it.
        self.served: Served | None = None
        self.model: Model | None = None  # version that serves, once this process has verified it
        self.held_back = False  # a person stopped it while a version served, which serves once that is over
        # Newest promotion that was refused, and why; None once a later one serves.
        self.refused: RefusedDeployment | None = None
        # Pipeline's file as it was last applied; None until it is known.
        self.applied: Pipeline | None = None
        # Layout by generation, of each version that was ever admitted.
        self.layouts: dict[int, Layout] = {}
        self.answering = False  # whether Triton answered for the served version at the last look
        self.late_answers = 0  # probes in a row that were not answered in time
        self.promotions: list[ModelVersionPromoted] = []  # promotions that wait to be tried
        self.traceparent = ""  # trace in which the newest promotion came
        self.failures = 0  # tries since the last success that failed for a passing reason
        self.not_before = 0.0  # earliest time of the next try, in seconds of the monotonic clock

    def promote(self, promotion: ModelVersionPromoted, traceparent: str | None) -> None:
        """Adds a promotion, unless the same one waits already. It may be tried at once."""
        if all(_identity(promotion) != _identity(waiting) for waiting in self.promotions):
            self.promotions.append(promotion)
            self.traceparent = traceparent or self.traceparent
        self.not_before = 0.0

    def is_due(self, now: float) -> bool:
        """Tells whether a promotion waits and may be tried at `now`, monotonic seconds."""
        return bool(self.promotions) and not self.stopped and self.not_before <= now

    def take_promotions(self) -> list[ModelVersionPromoted]:
        """Removes the waiting promotions and returns them, the newest last."""
        taken, self.promotions = self.promotions, []
        return sorted(taken, key=lambda promotion: promotion.generation)

    def postpone(self, promotions: list[ModelVersionPromoted], now: float) -> None:
        """Puts promotions back whose try failed for a passing reason, with a growing delay."""
        self.failures += 1
        self.promotions += promotions
        self.not_before = now + min(2.0 ** (self.failures - 1), LONGEST_BACKOFF_S)

    @property
    def stopped(self) -> str:
        """Reason why nothing of the pipeline may serve, of the file that was last applied; else empty."""
        return (self.applied and self.applied.serving.stopped) or ""

    @property
    def resumes(self) -> bool:
        """Tells whether what served when a person stopped it should serve again, by the known file."""
        return self.held_back and self.applied is not None and not self.stopped

    @property
    def unverified(self) -> bool:
        """Tells whether the database alone says what serves: it was verified before this process began, and
        cannot be for now.
        """
        return self.served is not None and self.model is None and self.served.generation in self.layouts

    def serves(self, promotion: ModelVersionPromoted) -> bool:
        return self.model is not None and _identity(self.model.promotion) == _identity(promotion)

    @property
    def known(self) -> Known | None:
        """Newest promotion that was ever admitted; no older one is admitted any more."""
        newest = self.layouts.get(max(list(self.layouts), default=0))
        return Known(newest.generation, newest.digest) if newest else None

    def layout(self, generation: int | None) -> Layout | None:
        """Layout of a generation; without one, of the served version, else the newest."""
        if generation is None:
            generation = self.served.generation if self.served else max(list(self.layouts), default=0)
        return self.layouts.get(generation)

    @property
    def declared(self) -> Pipeline:
        """Pipeline as it was last applied, else as the served version was trained for. Raises
        Unavailable while neither is known.
        """
        if self.applied:
            return self.applied
        if self.model:
            return self.model.package.pipeline
        raise Unavailable(
            f"pipeline {self.pipeline} is not known yet", remedy="Wait until pipelines.v1 has been read"
        )

    @property
    def requires_record(self) -> bool:
        """Tells whether predictions may be answered only when they are recorded. True until the served
        version is verified.
        """
        if self.served is None:
            return False
        return self.model is None or self.declared.serving.record == "required"


def _identity(promotion: ModelVersionPromoted) -> tuple[int, str]:
    return promotion.generation, promotion.version.digest


class Deployments:
    """Deployments of all pipelines, with their rows in the database. Coroutines wait for the
    database and raise DatabaseAway.
    """

    def __init__(self, store: Store, keys: Keys, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._by_pipeline: dict[str, Deployment] = {}
        self.applied = AppliedPipelines(GROUP, keys, follow=self._apply, forget=self._forget)

    async def restore(self) -> None:
        """Reads what the database holds, before anything else is asked of the deployments."""
        for pipeline, layout in await self._store.read(tables.layouts):
            self.of(pipeline).layouts[layout.generation] = layout
        now = self._clock()
        for changed in await self._store.read(lambda session: tables.deployments(session, now)):
            self._show(changed)
        for pipeline in await self._store.read(tables.stopped):
            self.of(pipeline).held_back = True

    def __iter__(self) -> Iterator[Deployment]:
        """Deployments by name of pipeline, as they are now. From any thread."""
        return iter(sorted(self._by_pipeline.values(), key=lambda deployment: deployment.pipeline))

    def of(self, pipeline: str) -> Deployment:
        """Deployment of a pipeline, an empty one where nothing is known of it."""
        return self._by_pipeline.setdefault(pipeline, Deployment(pipeline))

    @property
    def remembered(self) -> bool:
        """Tells whether the database holds any version: it says what is served, then."""
        return any(deployment.layouts for deployment in self)

    @property
    def models(self) -> dict[str, Model]:
        """Served and verified versions by pipeline, but of what is stopped."""
        return {one.pipeline: one.model for one in self if one.model and not one.stopped}

    def verified(self, pipeline: str) -> Model:
        """Version that `pipeline` serves. Raises NotFound, Conflict where it is stopped, and Unavailable
        while it is not verified.
        """
        if why := next((one.stopped for one in self if one.pipeline == pipeline), ""):
            raise stopped(pipeline, why)
        if any(one.unverified for one in self if one.pipeline == pipeline):
            raise Unavailable(
                f"{pipeline} is served, but not verified yet",
                remedy="Try again; `penstock status` says what is missing",
            )
        return find_model(self.models, pipeline)

    @property
    def served(self) -> list[str]:
        """Pipelines that serve, whether Triton has loaded them or not."""
        return [deployment.pipeline for deployment in self if deployment.served]

    @property
    def record_required(self) -> bool:
        """Tells whether any served pipeline requires the record; also while that is not known."""
        return not self.applied.complete or any(deployment.requires_record for deployment in self)

    def layout(self, pipeline: str, generation: int | None) -> Layout | None:
        """Layout of a version; without a generation, of the one that is served. From any thread."""
        deployment = self._by_pipeline.get(pipeline)
        return deployment.layout(generation) if deployment else None

    async def promotion(self, deployment: Deployment, generation: int) -> ModelVersionPromoted:
        """Promotion of an admitted generation. Raises NoResultFound."""
        return await self._store.read(
            lambda session: tables.promotion_of(session, deployment.pipeline, generation)
        )

    async def admit(self, model: Model) -> None:
        """Records that a version was verified: from now on no older one is."""
        await self._store.write(
            lambda effect: tables.admit(effect, model.promotion, model.layout, self._clock())
        )
        self.of(model.pipeline).layouts[model.generation] = model.layout

    async def serve(self, model: Model) -> None:
        """Records and publishes that a version serves."""
        changed = await self._store.write(lambda effect: tables.serve(effect, model.promotion, self._clock()))
        deployment = self.of(model.pipeline)
        deployment.model, deployment.held_back = model, False
        self._show(changed)

    async def refuse(self, promotion: ModelVersionPromoted, reason: str) -> None:
        """Records and publishes that a promotion is not served; what serves goes on."""
        self._show(
            await self._store.write(lambda effect: tables.refuse(effect, promotion, reason, self._clock()))
        )

    async def withdraw(self, promotion: ModelVersionPromoted, reason: str) -> None:
        """Records and publishes that the served version may serve no longer."""
        self._show(
            await self._store.write(lambda effect: tables.withdraw(effect, promotion, reason, self._clock()))
        )

    async def stop(self, deployment: Deployment) -> None:
        """Records and publishes that nothing of the pipeline serves. `served` stays until Triton has unloaded
        it.
        """
        await self._store.write(lambda effect: tables.stop(effect, deployment.pipeline, self._clock()))
        deployment.model, deployment.held_back = None, True

    async def resume(self, deployment: Deployment) -> None:
        """Records and publishes that what was stopped serves again, once it is verified anew."""
        changed = await self._store.write(
            lambda effect: tables.resume(effect, deployment.pipeline, self._clock())
        )
        deployment.held_back = False
        self._show(changed)

    def summary(self) -> str:
        """Text about what serves, is stopped and was refused, for `penstock status`."""
        said = [
            f"{version_name(model.pipeline, model.digest)} generation {model.generation}"
            for model in self.models.values()
        ]
        said += [f"{one.pipeline} is stopped: {one.stopped}" for one in self if one.stopped]
        said += [
            f"refused {version_name(deployment.pipeline, no.digest)} generation {no.generation}: {no.reason}"
            for deployment in self
            if (no := deployment.refused)
        ]
        return "; ".join(said) or "no model promoted yet"

    def _apply(self, new: Applied, _old: Applied | None) -> None:
        self.of(new.pipeline.pipeline).applied = new.pipeline

    def _forget(self, name: str, _number: int) -> None:
        """A pipeline that was deleted never served."""
        if (known := self._by_pipeline.get(name)) and not known.layouts:
            del self._by_pipeline[name]

    def _show(self, changed: DeploymentChanged) -> None:
        deployment = self.of(changed.pipeline)
        deployment.served, deployment.refused = changed.serving, changed.refused
