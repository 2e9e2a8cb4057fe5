"""Keeps Triton serving what is promoted: the loop that looks, plans (`reconcile.py`) and repairs.

A new version is first loaded under a name of its own and must answer the package's probe rows; then
it is loaded beside the old one, must answer again under the pipeline's name, and only then the old
one goes. Whatever fails before that leaves the old one where it is. Each request is answered by one
of the two.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final, Protocol

import structlog
from sqlalchemy import select

from penstock.contracts import metrics
from penstock.contracts.errors import TREATMENTS, PenstockError, Refused, Unavailable
from penstock.contracts.events import ModelVersionPromoted
from penstock.contracts.pipeline import Pipeline
from penstock.packages.format import Package
from penstock.runtime.metrics import Read, histogram
from penstock.runtime.store import Store
from penstock.runtime.telemetry import context_of, current_traceparent, span
from penstock_inference import store as tables
from penstock_inference.record.predictions import Layout
from penstock_inference.serving.admission import Admission
from penstock_inference.serving.probes import batches, difference
from penstock_inference.serving.reconcile import CANDIDATE, Deploy, Drop, Heal, Restore, Step, Trim, plan
from penstock_inference.serving.repository import Device, ModelRepository, model_config
from penstock_inference.serving.triton import Triton

log = structlog.get_logger(__name__)
_DEPLOYED = histogram(metrics.DEPLOYED)

LONGEST_BACKOFF_S: Final = 30.0
LOOK_AGAIN_S: Final = 0.2
"""While predictions wait for Triton."""
SLOW_ANSWERS: Final = 3
"""A probe that is late this often in a row counts as not answered: once may be load."""


class Status(Protocol):
    """Where it is told how things stand; a Service."""

    def waits_for(self, thing: str, why: str) -> None: ...
    def has(self, thing: str) -> None: ...
    def fact(self, key: str, text: str) -> None: ...


@dataclass(frozen=True)
class Model:
    """One admitted version: verified in this process."""

    promotion: ModelVersionPromoted
    package: Package

    @property
    def pipeline(self) -> str:
        return self.promotion.version.pipeline

    @property
    def generation(self) -> int:
        return self.promotion.generation

    @property
    def digest(self) -> str:
        return self.promotion.version.digest

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Features in the order of the tensors: numbers, then strings."""
        return (*self.package.signature.inputs.numbers, *self.package.signature.inputs.strings)

    @cached_property
    def references(self) -> dict[str, str]:
        """`source.field` by feature."""
        features = self.package.pipeline.resolved_features()
        return {name: features[name].source_field for name in self.inputs}

    @cached_property
    def types(self) -> dict[str, str]:
        """The declared type of each feature's field."""
        return {
            name: self.package.pipeline.field(reference).type for name, reference in self.references.items()
        }

    @cached_property
    def layout(self) -> Layout:
        inputs = self.package.signature.inputs
        booleans = frozenset(name for name in inputs.strings if self.types[name] == "boolean")
        return Layout(self.digest, self.generation, inputs.numbers, inputs.strings, booleans)


class Serving:
    """One Triton, one loop. Not for several threads; `layout` may be called from any."""

    def __init__(
        self,
        *,
        store: Store,
        admission: Admission,
        repository: ModelRepository,
        triton: Triton,
        status: Status,
        clock: Callable[[], datetime],
        prepare: Callable[[Model], None],
        hold: Callable[[bool], None] = lambda held: None,
        device: Device = "cpu",
    ) -> None:
        """`prepare` makes what a pipeline needs before it is served (its topic). It may block and
        raise Unavailable.

        `hold` is told at each look whether predictions should wait: Triton is away, or has come
        back without what it served.
        """
        self._store = store
        self._admission = admission
        self._repository = repository
        self._triton = triton
        self._status = status
        self._clock = clock
        self._prepare = prepare
        self._hold = hold
        self._device = device
        self._held = False
        self._pending: dict[str, list[ModelVersionPromoted]] = {}
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._late: dict[str, int] = {}
        self._answering: set[str] = set()
        """Pipelines that Triton answered for at the last look."""
        self._refused = 0
        self._traces: dict[str, str] = {}
        """The trace that each pipeline's newest promotion came in."""
        self._models: dict[str, Model] = {}
        self._wake = asyncio.Event()
        self._live = False
        self._applied: dict[str, Pipeline] = {}
        self._pipelines_known = False
        self._layouts: dict[tuple[str, int], Layout] = {}
        with store.read() as session:
            self._layouts.update(
                {(pipeline, layout.generation): layout for pipeline, layout in tables.layouts(session)}
            )
            self._served = {row.pipeline: row.generation for row in session.scalars(select(tables.ServedRow))}

    # -- what others ask ---------------------------------------------------------------------------

    @property
    def models(self) -> Mapping[str, Model]:
        """What is served, by pipeline."""
        return self._models

    def layout(self, pipeline: str, generation: int | None) -> Layout | None:
        """What a version's tensors mean; without a generation, the one that is served, or else the
        newest that ever was admitted.
        """
        if generation is None:
            admitted = [known for name, known in list(self._layouts) if name == pipeline]
            generation = self._served.get(pipeline) or max(admitted, default=0)
        return self._layouts.get((pipeline, generation))

    @property
    def recording_required(self) -> bool:
        """Whether any served pipeline, as it was last applied, says so. Also as long as that is not
        known after a start.
        """
        if not self._pipelines_known or len(self._models) < len(self._served):
            return True
        return any(
            self._applied.get(model.pipeline, model.package.pipeline).serving.record == "required"
            for model in self._models.values()
        )

    def pipeline(self, name: str) -> Pipeline:
        """As it was last applied, or as the version was trained for. Raises Unavailable while
        neither is known.
        """
        if applied := self._applied.get(name):
            return applied
        if model := self._models.get(name):
            return model.package.pipeline
        raise Unavailable(f"pipeline {name} is not known yet", remedy="Wait until pipelines.v1 has been read")

    def readings(self) -> dict[metrics.Metric, Read]:
        """What is measured of it. From any thread."""
        return {
            metrics.DEPLOYMENTS: lambda: [
                (float(len({*self._served, *self._pending})), {"state": "wanted"}),
                (float(len(self._answering)), {"state": "served"}),
                (float(self._refused), {"state": "refused"}),
            ],
            metrics.SERVED: lambda: [
                (float(model.generation), {"pipeline": model.pipeline, "digest": model.digest[7:15]})
                for model in list(self._models.values())
            ],
            metrics.DOOR_HELD: lambda: [(float(self._held), {})],
        }

    # -- what happens ------------------------------------------------------------------------------

    def promoted(self, promotion: ModelVersionPromoted) -> None:
        """A promotion arrived. It is tried at the next look."""
        waiting = self._pending.setdefault(promotion.version.pipeline, [])
        if all(
            (other.generation, other.version.digest) != (promotion.generation, promotion.version.digest)
            for other in waiting
        ):
            waiting.append(promotion)
            if traceparent := current_traceparent():
                self._traces[promotion.version.pipeline] = traceparent
        self._not_before.pop(promotion.version.pipeline, None)
        self._wake.set()

    def applied(self, pipeline: Pipeline) -> None:
        """A pipeline's file, new or changed. What holds from now on: its `serving.record` and how
        long the record is kept.
        """
        self._applied[pipeline.pipeline] = pipeline

    def pipelines_known(self) -> None:
        """All pipelines of the past were told."""
        self._pipelines_known = True

    def caught_up(self) -> None:
        """All promotions of the past are here: from now on, an old one is not history but a replay."""
        self._pending = {
            pipeline: current
            for pipeline, waiting in self._pending.items()
            if (current := self._current(pipeline, waiting))
        }
        self._live = True
        self._wake.set()

    async def run(self, every: float) -> None:
        await asyncio.to_thread(self._sweep)
        while True:
            self._wake.clear()
            await self.look()
            try:
                await asyncio.wait_for(self._wake.wait(), LOOK_AGAIN_S if self._held else every)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Once: compare, repair what can be. Raises no PenstockError but DatabaseAway; what stays
        broken is in the status.
        """
        await self._open_served()
        try:
            loaded = await self._triton.loaded()
            silent = [
                pipeline
                for pipeline, model in list(self._models.items())
                if model.generation in loaded.get(pipeline, ()) and not await self._answers(model)
            ]
        except PenstockError as error:
            self._status.waits_for("triton", error.message)
            self._answering = set()
            self._keep_waiting(True)
            return
        self._status.has("triton")
        self._answering = {
            name
            for name, model in self._models.items()
            if model.generation in loaded.get(name, ()) and name not in silent
        }
        served = {pipeline: model.generation for pipeline, model in self._models.items()}
        steps = plan(served, loaded, silent, self._due())
        self._keep_waiting(any(isinstance(step, Restore) for step in steps))
        for step in steps:
            if not isinstance(step, Restore):
                self._keep_waiting(False)
            await self._attempt(step)
        self._keep_waiting(False)  # also where a model does not come back: the others must not wait for it
        self._tell()

    def _keep_waiting(self, held: bool) -> None:
        self._held = held and bool(self._models)
        self._hold(self._held)

    # -- steps -------------------------------------------------------------------------------------

    async def _attempt(self, step: Step) -> None:
        try:
            await self._take(step)
        except PenstockError as error:
            log.warning("step_failed", step=repr(step), reason=str(error))
            if not isinstance(step, Drop):
                self._status.waits_for(f"model {step.pipeline}", error.message)

    async def _take(self, step: Step) -> None:
        match step:
            case Restore(pipeline):
                await self._load_served(self._models[pipeline])
                log.info("restored", pipeline=pipeline, generation=step.generation)
            case Heal(pipeline):
                log.warning(
                    "model_silent", pipeline=pipeline, generation=step.generation, repair="unload and load"
                )
                await self._triton.unload(pipeline)
                await self._load_served(self._models[pipeline])
                log.info("healed", pipeline=pipeline, generation=step.generation)
            case Trim(pipeline, generation):
                await self._leave_only(self._models[pipeline])
                log.info("trimmed", pipeline=pipeline, generation=generation)
            case Drop(model):
                await self._triton.unload(model)
                await asyncio.to_thread(self._repository.remove, model)
                log.info("dropped", model=model)
            case Deploy(pipeline):
                await self._deploy(pipeline)

    async def _load_served(self, model: Model) -> None:
        """Puts the verified bytes back and loads them: nothing that lay on the disk meanwhile is trusted."""
        await asyncio.to_thread(self._place, model.pipeline, model, (model.generation,))
        await self._triton.load(model.pipeline)
        await self._probe(model.pipeline, model)
        self._status.has(f"model {model.pipeline}")

    async def _deploy(self, pipeline: str) -> None:
        """Tries what is promoted, newest first; what is older than one that works is history."""
        waiting = sorted(self._pending.pop(pipeline, []), key=lambda promotion: promotion.generation)
        while waiting and not self._is_served(waiting[-1]):
            try:
                if await self._deployed(waiting[-1]):
                    break
            except PenstockError as error:
                self._later(pipeline, waiting, error)
                raise
            waiting.pop()

    async def _deployed(self, promotion: ModelVersionPromoted) -> bool:
        """False where it is refused for good. Raises what may pass."""
        with self._deploying(promotion) as measured:
            try:
                await self._deploy_one(promotion)
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    measured["outcome"] = "retried"
                    raise
                measured["outcome"] = "refused"
                self._refuse(promotion, error)
                return False
            return True

    def _is_served(self, promotion: ModelVersionPromoted) -> bool:
        current = self._models.get(promotion.version.pipeline)
        return current is not None and (current.generation, current.digest) == (
            promotion.generation,
            promotion.version.digest,
        )

    @contextmanager
    def _deploying(self, promotion: ModelVersionPromoted) -> Iterator[dict[str, str]]:
        """Within the trace that the promotion came in. What is yielded says how it is counted."""
        pipeline = promotion.version.pipeline
        measured = {"pipeline": pipeline, "outcome": "served"}
        began = time.monotonic()
        context = context_of({"traceparent": self._traces.get(pipeline, "")})
        with span("deploy", context, pipeline=pipeline, generation=promotion.generation):
            try:
                yield measured
            finally:
                _DEPLOYED.record(time.monotonic() - began, measured)

    async def _deploy_one(self, promotion: ModelVersionPromoted) -> None:
        pipeline, generation = promotion.version.pipeline, promotion.generation
        with self._store.read() as session:
            known = tables.known(session, pipeline)
        current = self._models.get(pipeline)
        began = time.monotonic()
        model = Model(promotion, await asyncio.to_thread(self._admission.admit, promotion, known))
        await asyncio.to_thread(self._prepare, model)
        with self._store.transaction() as effect:
            tables.admit(effect, promotion, model.layout, self._clock())
        self._layouts[pipeline, generation] = model.layout
        await self._try(model)
        await self._switch(current, model)
        self._failures.pop(pipeline, None)
        self._status.has(f"model {pipeline}")
        log.info(
            "serving",
            pipeline=pipeline,
            generation=generation,
            digest=model.digest,
            seconds=round(time.monotonic() - began, 2),
        )

    async def _try(self, model: Model) -> None:
        """Loads the candidate under a name that nobody knows, and probes it."""
        name = f"{model.pipeline}{CANDIDATE}{secrets.token_hex(8)}"
        await asyncio.to_thread(self._place, name, model, (model.generation,))
        try:
            await self._load_new(name, model)
        finally:
            await self._triton.unload(name)
            await asyncio.to_thread(self._repository.remove, name)

    async def _switch(self, old: Model | None, new: Model) -> None:
        pipeline = new.pipeline
        # Triton knows one configuration a model: versions that are called differently cannot be
        # loaded together.
        together = old is not None and self._config(pipeline, old) == self._config(pipeline, new)
        versions = (old.generation, new.generation) if old and together else (new.generation,)
        if old and old.generation not in self._repository.versions(pipeline):
            await asyncio.to_thread(self._place, pipeline, old, versions)
        await asyncio.to_thread(self._place, pipeline, new, versions)
        try:
            await self._load_new(pipeline, new)
        except PenstockError:
            await self._back_to(old, new)
            raise
        with self._store.transaction() as effect:
            tables.serve(effect, new.promotion, self._clock())
        self._models[pipeline], self._served[pipeline] = new, new.generation
        await self._leave_only(new)

    async def _back_to(self, old: Model | None, failed: Model) -> None:
        pipeline = failed.pipeline
        if old:
            await asyncio.to_thread(
                self._repository.configure, pipeline, self._config(pipeline, old, old.generation)
            )
            await self._triton.load(pipeline)
            await asyncio.to_thread(self._repository.remove_versions, pipeline, [failed.generation])
        else:
            await self._triton.unload(pipeline)
            await asyncio.to_thread(self._repository.remove, pipeline)

    async def _leave_only(self, model: Model) -> None:
        """Ends every other version of the pipeline; what is in flight on them is answered first."""
        pipeline, generation = model.pipeline, model.generation
        await asyncio.to_thread(
            self._repository.configure, pipeline, self._config(pipeline, model, generation)
        )
        await self._triton.load(pipeline)
        others = self._repository.versions(pipeline) - {generation}
        await asyncio.to_thread(self._repository.remove_versions, pipeline, others)
        for other in others:
            await asyncio.to_thread(self._admission.forget, pipeline, other)

    def _place(self, name: str, model: Model, versions: tuple[int, ...]) -> None:
        self._repository.place(name, model.generation, model.package.read("model.onnx"))
        self._repository.configure(name, self._config(name, model, *versions))

    def _config(self, name: str, model: Model, *versions: int) -> str:
        return model_config(
            name, model.package.signature, model.package.pipeline.serving.batch, versions, self._device
        )

    async def _load_new(self, name: str, model: Model) -> None:
        """Loads and probes. What Triton says against it is a refusal of the model, unless Triton
        itself is away.
        """
        try:
            await self._triton.load(name)
        except Unavailable:
            raise
        except PenstockError as error:
            raise Refused(f"Triton does not load it: {error.message}") from error
        await self._probe(name, model)

    async def _probe(self, name: str, model: Model) -> None:
        probes = model.package.profile.probes
        for rows in batches(probes, model.package.pipeline.serving.batch.max_size):
            try:
                answers = await self._triton.infer(name, model.generation, rows.numbers, rows.strings)
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    raise
                raise Refused(f"it does not answer the probe rows: {error.message}") from error
            if wrong := difference(rows, answers, probes.tolerance):
                raise Refused(f"it does not answer as its package says: {wrong}")

    async def _answers(self, model: Model) -> bool:
        """One real inference: ModelReady stays true when the model's process was killed. Raises
        Unavailable when Triton is away.
        """
        pipeline = model.pipeline
        row = next(batches(model.package.profile.probes, 1))
        try:
            answers = await self._triton.infer(pipeline, model.generation, row.numbers, row.strings)
        except Unavailable:
            raise
        except PenstockError as error:
            self._late[pipeline] = self._late.get(pipeline, 0) + 1
            return TREATMENTS[error.kind].retry and self._late[pipeline] < SLOW_ANSWERS
        self._late.pop(pipeline, None)
        return difference(row, answers, model.package.profile.probes.tolerance) is None

    # -- memory ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """What a crash of ours left on the disk."""
        for name in self._repository.names():
            if CANDIDATE in name:
                self._repository.remove(name)

    async def _open_served(self) -> None:
        """After a start: verifies anew what was served before, from the disk. What does not hold
        any more is served no longer.
        """
        for pipeline, generation in list(self._served.items()):
            if pipeline in self._models:
                continue
            with self._store.read() as session:
                promotion = tables.promotion_of(session, pipeline, generation)
            try:
                self._models[pipeline] = Model(
                    promotion, await asyncio.to_thread(self._admission.reopen, promotion)
                )
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    self._status.waits_for(f"model {pipeline}", error.message)
                    continue
                log.exception("withdrawn", pipeline=pipeline, generation=generation)
                with self._store.transaction() as effect:
                    tables.withdraw(effect, promotion, str(error), self._clock())
                del self._served[pipeline]

    def _current(self, pipeline: str, waiting: list[ModelVersionPromoted]) -> list[ModelVersionPromoted]:
        with self._store.read() as session:
            known = tables.known(session, pipeline)
        return [
            promotion for promotion in waiting if known is None or promotion.generation >= known.generation
        ]

    def _due(self) -> list[str]:
        now = time.monotonic()
        return [
            pipeline
            for pipeline in self._pending
            if self._live and self._not_before.get(pipeline, 0.0) <= now
        ]

    def _later(self, pipeline: str, waiting: list[ModelVersionPromoted], error: PenstockError) -> None:
        failures = self._failures[pipeline] = self._failures.get(pipeline, 0) + 1
        self._pending.setdefault(pipeline, []).extend(waiting)
        self._not_before[pipeline] = time.monotonic() + min(2.0 ** (failures - 1), LONGEST_BACKOFF_S)
        log.warning("deployment_waits", pipeline=pipeline, reason=str(error), failures=failures)

    def _refuse(self, promotion: ModelVersionPromoted, error: PenstockError) -> None:
        log.warning(
            "refused", pipeline=promotion.version.pipeline, generation=promotion.generation, reason=str(error)
        )
        with self._store.transaction() as effect:
            tables.refuse(effect, promotion, str(error), self._clock())
        self._status.has(f"model {promotion.version.pipeline}")

    def _tell(self) -> None:
        with self._store.read() as session:
            refused = {row.pipeline: row for row in session.scalars(select(tables.RefusedRow))}
        self._refused = len(refused)
        said = [
            f"{model.pipeline}@{model.digest[7:15]} generation {model.generation}"
            for _, model in sorted(self._models.items())
        ]
        said += [
            f"refused {pipeline}@{row.digest[7:15]} generation {row.generation}: {row.reason}"
            for pipeline, row in sorted(refused.items())
        ]
        self._status.fact("serving", "; ".join(said) or "no model promoted yet")
