"""Loop that keeps promoted versions on Triton: it looks, plans (`reconcile.py`) and repairs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from penstock.contracts.errors import TREATMENTS, PenstockError, Unavailable
from penstock.contracts.events import ModelVersionPromoted
from penstock.packages.admission import Admission
from penstock.runtime.readiness import Readiness
from penstock.runtime.telemetry import current_traceparent
from penstock.serving.model import Model
from penstock_inference.serving.deployer import Deployer
from penstock_inference.serving.deployment import Deployment, Deployments
from penstock_inference.serving.reconcile import Deploy, Drop, Heal, Restore, Step, Trim, plan
from penstock_inference.serving.rollout import Rollout

log = structlog.get_logger(__name__)

LOOK_AGAIN_S: Final = 0.2  # seconds between two looks while predictions wait for Triton
SLOW_ANSWERS: Final = 3  # late probes in a row that count as a dead model; one or two may be load


class Serving:
    """Loop over one Triton, on the event loop's thread."""

    def __init__(
        self,
        deployments: Deployments,
        admission: Admission,
        rollout: Rollout,
        deployer: Deployer,
        readiness: Readiness,
        hold: Callable[[bool], None],
    ) -> None:
        """`hold` is called at each look with whether predictions must wait: Triton is away, or came
        back without the models that it served.
        """
        self._deployments = deployments
        self._admission = admission
        self._rollout = rollout
        self._readiness = readiness
        self._deployer = deployer
        self._hold = hold
        self._wake = asyncio.Event()
        self._live = False
        self.held = False  # whether predictions wait in the door

    def promoted(self, promotion: ModelVersionPromoted) -> None:
        """Takes a promotion in; it is tried at the next look."""
        self._deployments.of(promotion.version.pipeline).promote(promotion, current_traceparent())
        self._wake.set()

    def caught_up(self) -> None:
        """Drops the promotions of the past that later ones replaced. From now on an old promotion
        is a replay, and refused.
        """
        for deployment in self._deployments:
            known = deployment.known
            deployment.promotions = [
                promotion
                for promotion in deployment.promotions
                if known is None or promotion.generation >= known.generation
            ]
        self._live = True
        self._wake.set()

    async def run(self, every_s: float) -> None:
        """Looks every `every_s` seconds, and sooner after a promotion or while predictions wait."""
        await asyncio.to_thread(self._rollout.remove_candidates)
        while True:
            self._wake.clear()
            await self.look()
            try:
                await asyncio.wait_for(self._wake.wait(), LOOK_AGAIN_S if self.held else every_s)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Compares and repairs once. What cannot be repaired is in the status. Raises DatabaseAway
        and no other PenstockError.
        """
        for deployment in self._deployments:
            if deployment.stopped:
                await self._stop(deployment)
                continue
            if deployment.resumes:
                await self._deployments.resume(deployment)
            if deployment.served and not deployment.model:
                await self._reopen(deployment)
        try:
            loaded = await self._rollout.triton.loaded()
            for deployment in self._deployments:
                deployment.answering = await self._answers(deployment, loaded)
        except PenstockError as error:
            self._readiness.waits_for("triton", error.message)
            for deployment in self._deployments:
                deployment.answering = False
            self._keep_waiting(True)
            return
        self._readiness.has("triton")
        await self._repair(self._plan(loaded))
        self._readiness.fact("serving", self._deployments.summary())

    # -- looking -----------------------------------------------------------------------------------

    async def _stop(self, deployment: Deployment) -> None:
        # Durable first, and told last: who is told that nothing serves may rely on it.
        self._readiness.has(f"model {deployment.pipeline}")
        if not deployment.served:
            return
        if not deployment.held_back:
            await self._deployments.stop(deployment)
        try:
            await self._rollout.drop(deployment.pipeline)
        except PenstockError as error:
            self._readiness.waits_for(f"model {deployment.pipeline}", f"to be stopped: {error.message}")
            return
        deployment.served = None
        log.warning("stopped", pipeline=deployment.pipeline, reason=deployment.stopped)

    async def _reopen(self, deployment: Deployment) -> None:
        # Verified anew, since it was served before this process began; withdrawn where it does not
        # hold any more.
        assert deployment.served is not None
        if deployment.layout(deployment.served.generation) is None:
            self._readiness.waits_for(
                f"model {deployment.pipeline}",
                "the database does not say what it serves; its promotion is awaited from Kafka",
            )
            return
        promotion = await self._deployments.promotion(deployment, deployment.served.generation)
        try:
            package = await asyncio.to_thread(self._admission.reopen, promotion)
        except PenstockError as error:
            if TREATMENTS[error.kind].retry:
                self._readiness.waits_for(f"model {deployment.pipeline}", error.message)
                return
            log.exception("withdrawn", pipeline=deployment.pipeline, generation=promotion.generation)
            await self._deployments.withdraw(promotion, str(error))
        else:
            deployment.model = Model(promotion, package)
            self._readiness.has(f"model {deployment.pipeline}")

    async def _answers(self, deployment: Deployment, loaded: dict[str, frozenset[int]]) -> bool:
        # Whether Triton has the served version and it answers. Raises Unavailable.
        model = deployment.model
        if model is None or model.generation not in loaded.get(deployment.pipeline, ()):
            return False
        try:
            right = await self._rollout.answers(model)
        except Unavailable:
            raise
        except PenstockError as error:
            deployment.late_answers += 1
            return TREATMENTS[error.kind].retry and deployment.late_answers < SLOW_ANSWERS
        deployment.late_answers = 0
        return right

    def _plan(self, loaded: dict[str, frozenset[int]]) -> list[Step]:
        now = time.monotonic()
        return plan(
            {pipeline: model.generation for pipeline, model in self._deployments.models.items()},
            loaded,
            [deployment.pipeline for deployment in self._deployments if not deployment.answering],
            [d.pipeline for d in self._deployments if self._live and d.is_due(now)],
            [d.pipeline for d in self._deployments if d.unverified],
        )

    # -- repairing ---------------------------------------------------------------------------------

    async def _repair(self, steps: list[Step]) -> None:
        # In their order. Predictions wait until all models are back.
        self._keep_waiting(any(isinstance(step, Restore) for step in steps))
        for step in steps:
            if not isinstance(step, Restore):
                self._keep_waiting(False)
            try:
                await self._take(step)
            except PenstockError as error:
                log.warning("step_failed", step=repr(step), reason=str(error))
                if not isinstance(step, Drop):
                    self._readiness.waits_for(f"model {step.pipeline}", error.message)
        self._keep_waiting(False)  # also where a model does not come back: the others must not wait for it

    def _keep_waiting(self, held: bool) -> None:
        self.held = held and bool(self._deployments.models)
        self._hold(self.held)

    async def _take(self, step: Step) -> None:
        match step:
            case Restore(pipeline, generation):
                await self._rollout.restore(self._deployments.models[pipeline])
                self._readiness.has(f"model {pipeline}")
                log.info("restored", pipeline=pipeline, generation=generation)
            case Heal(pipeline, generation):
                log.warning(
                    "model_silent", pipeline=pipeline, generation=generation, repair="unload and load"
                )
                await self._rollout.heal(self._deployments.models[pipeline])
                self._readiness.has(f"model {pipeline}")
                log.info("healed", pipeline=pipeline, generation=generation)
            case Trim(pipeline, generation):
                await self._deployer.trim(self._deployments.models[pipeline])
                log.info("trimmed", pipeline=pipeline, generation=generation)
            case Drop(model):
                await self._rollout.drop(model)
                log.info("dropped", model=model)
            case Deploy(pipeline):
                await self._deployer.deploy(self._deployments.of(pipeline))
