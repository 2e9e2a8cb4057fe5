"""Deployment of a promoted version: verified, tried, switched to; or refused for good, or
postponed.

A failure before the new version answers under the pipeline's name leaves the old one where it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from penstock.contracts import metrics
from penstock.contracts.errors import TREATMENTS, PenstockError, Unavailable
from penstock.contracts.events import ModelVersionPromoted
from penstock.contracts.pipeline import Pipeline
from penstock.packages.admission import Admission
from penstock.runtime.metrics import histogram
from penstock.runtime.readiness import Readiness
from penstock.runtime.telemetry import context_of, span
from penstock.serving.model import Model
from penstock_inference.serving.deployment import Deployment, Deployments
from penstock_inference.serving.rollout import Rollout

log = structlog.get_logger(__name__)
_DEPLOYED = histogram(metrics.DEPLOYED)


class Deployer:
    """Deploys the promotions that wait. `ensure_topic` makes the topic of a pipeline's predictions
    before it is served; it may block and raise Unavailable.
    """

    def __init__(
        self,
        deployments: Deployments,
        admission: Admission,
        rollout: Rollout,
        readiness: Readiness,
        ensure_topic: Callable[[Pipeline], None],
    ) -> None:
        self._deployments = deployments
        self._admission = admission
        self._rollout = rollout
        self._readiness = readiness
        self._ensure_topic = ensure_topic

    async def deploy(self, deployment: Deployment) -> None:
        """Tries the promotions that wait, newest first, until one serves; older ones are history
        then. One that failed for a passing reason, and those older than it, wait for another try.
        """
        if deployment.stopped:  # since this was planned
            return
        waiting = deployment.take_promotions()
        while waiting and not deployment.serves(waiting[-1]):
            try:
                if await self._try(deployment, waiting[-1]):
                    break
            except PenstockError as error:
                deployment.postpone(waiting, time.monotonic())
                log.warning(
                    "deployment_waits",
                    pipeline=deployment.pipeline,
                    reason=str(error),
                    failures=deployment.failures,
                )
                raise
            waiting.pop()

    async def _try(self, deployment: Deployment, promotion: ModelVersionPromoted) -> bool:
        """Deploys, or refuses for good and returns False; measures that within the trace that the
        promotion came in. Raises what may pass.
        """
        began = time.monotonic()
        outcome = "retried"
        context = context_of({"traceparent": deployment.traceparent})
        with span("deploy", context, pipeline=deployment.pipeline, generation=promotion.generation):
            try:
                await self._switch(deployment, promotion)
                outcome = "served"
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    raise
                outcome = "refused"
                log.warning(
                    "refused",
                    pipeline=deployment.pipeline,
                    generation=promotion.generation,
                    reason=str(error),
                )
                await self._deployments.refuse(promotion, str(error))
                self._readiness.has(f"model {deployment.pipeline}")
            finally:
                took = time.monotonic() - began
                _DEPLOYED.record(took, {"pipeline": deployment.pipeline, "outcome": outcome})
        return outcome == "served"

    async def _switch(self, deployment: Deployment, promotion: ModelVersionPromoted) -> None:
        began = time.monotonic()
        package = await asyncio.to_thread(self._admission.admit, promotion, deployment.known)
        model = Model(promotion, package)
        await asyncio.to_thread(self._ensure_topic, model.package.pipeline)
        await self._deployments.admit(model)
        await self._rollout.try_candidate(model)
        if deployment.stopped:
            raise Unavailable(f"{model.pipeline} was stopped meanwhile", remedy="Resume it: penstock resume")
        await self._rollout.add(deployment.model, model)
        await self._deployments.serve(model)
        await self.trim(model)
        deployment.failures = 0
        self._readiness.has(f"model {model.pipeline}")
        log.info(
            "serving",
            pipeline=model.pipeline,
            generation=model.generation,
            digest=model.digest,
            seconds=round(time.monotonic() - began, 2),
        )

    async def trim(self, model: Model) -> None:
        """Leaves only this version, in Triton and among the kept packages."""
        for other in await self._rollout.keep_only(model):
            await asyncio.to_thread(self._admission.forget, model.pipeline, other)
