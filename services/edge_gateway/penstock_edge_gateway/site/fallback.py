"""Fallback to the platform, through the hub: for a promoted version that the site cannot serve, where the
pipeline's file allows it. The site keeps no record of such an answer: the platform's door has it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Final

from penstock.contracts.errors import Conflict, Kind, NotFound, PenstockError, TooLarge, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.edge_gateway.v1 import hub_pb2
from penstock.inference.v1 import fallback_pb2
from penstock_edge_gateway.site.breaker import MISSES, Breaker
from penstock_edge_gateway.site.hub import PASSES, Hub
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.provenance import Provenance
from penstock_edge_gateway.site.serving import Missing

LEAST_S: Final = 0.05  # less is no time to ask in
WAY_BACK_S: Final = 0.02  # of the caller's deadline, for the answer's way from the site
FAIR: Final = 0.25  # of the file's time: a caller who had less and got no answer says nothing
WAITED: Final = 0.8  # of the time that there was: a caller who leaves then got no answer
LARGEST: Final = 1 << 20  # bytes of a question


class Fallback:
    """Asks the cloud where the pipeline's policy says so. Used on one event loop."""

    def __init__(
        self,
        hub: Hub,
        pipelines: Pipelines,
        missing: Callable[[str], Missing | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`missing`: the promoted version that a pipeline lacks here."""
        self._hub = hub
        self._pipelines = pipelines
        self._missing = missing
        self._now = now
        self._breakers: dict[str, Breaker] = {}
        self.answered: Counter[str] = Counter()
        """Answers of the platform by pipeline."""

    def breakers(self) -> dict[str, str]:
        """State of each pipeline's that was ever asked for."""
        now = self._now()
        return {pipeline: breaker.state(now) for pipeline, breaker in list(self._breakers.items())}

    async def ask(
        self, question: fallback_pb2.SiteQuestion, why: NotFound, within: float | None
    ) -> tuple[Provenance, fallback_pb2.SiteAnswer]:
        """Asks the platform, within the caller's seconds. Raises `why`, the site's own answer, where it may
        not be asked; Conflict where the question may not leave the site; Unavailable where there is no
        answer in time; and what the platform says.
        """
        pipeline = question.pipeline
        lacking = self._missing(pipeline)
        try:
            policy = (file := self._pipelines.get(pipeline)).edge.fallback
        except NotFound:
            raise why from None
        if not lacking or not policy:
            raise why
        self._check_leaving(file, question, lacking)
        if question.ByteSize() > LARGEST:
            raise TooLarge(f"a question of {question.ByteSize()} bytes", remedy=f"Ask with at most {LARGEST}")
        question.degraded = lacking.why
        longest = policy.within.total_seconds()
        budget = min(longest, inf if within is None else within - WAY_BACK_S)
        answer = await self._through_breaker(question, budget, fair=budget >= FAIR * longest)
        self.answered[pipeline] += 1
        confidence = answer.confidence if answer.HasField("confidence") else None
        return Provenance(answer.prediction, "cloud", confidence, lacking.why), answer

    def _check_leaving(self, file: Pipeline, question: fallback_pb2.SiteQuestion, lacking: Missing) -> None:
        # By the applied file: of a version that another one made, the site does not know the columns.
        name = file.pipeline
        if withheld := file.features_withheld():
            raise Conflict(f"`{withheld[0][0]}` may not leave this site, and {name} reads it")
        judged = not question.tensors or lacking.pipeline_number == self._pipelines.number(name)
        if not judged and any(map(file.withheld, file.sources)):
            raise Conflict(
                f"the promoted version of {name} was made by another file than that which says now what may"
                " leave this site",
                remedy="Wait until the site has the version, or train one by the file that is applied",
            )
        known = file.resolved_features()
        if unknown := next((one for one in question.fields.fields if one not in known), None):
            raise Conflict(f"{name} has no feature {unknown!r}, and so it stays at this site", where=unknown)

    async def _through_breaker(
        self, question: fallback_pb2.SiteQuestion, budget: float, *, fair: bool
    ) -> fallback_pb2.SiteAnswer:
        pipeline, began = question.pipeline, self._now()
        self._breakers[pipeline] = self._closed(pipeline, budget).begun(began)
        after: Callable[[Breaker], Breaker] = Breaker.left
        try:
            request = hub_pb2.InferRequest(incarnation=self._hub.incarnation, question=question)
            answer: hub_pb2.InferResponse = await self._hub.ask(self._hub.stub.Infer, request, within=budget)
            after = Breaker.answered
        except PenstockError as error:
            if error.kind not in PASSES:
                after = Breaker.answered
                raise
            after = self._missed if fair or error.kind is not Kind.DEADLINE else Breaker.left
            raise Unavailable(
                f"this site has no version of {pipeline} yet, and the platform gave no answer within"
                f" {budget:.2f} s: {error.message}",
                remedy="Try again",
            ) from error
        except asyncio.CancelledError:
            if fair and self._now() - began > WAITED * budget:  # its deadline came a moment before ours
                after = self._missed
            raise
        finally:
            self._breakers[pipeline] = after(self._breakers[pipeline])
        return answer.answer

    def _closed(self, pipeline: str, budget: float) -> Breaker:
        """Breaker that lets a call. Raises Unavailable where asking would cost a caller time in vain."""
        if budget < LEAST_S:
            raise Unavailable(
                f"this site has no version of {pipeline} yet, and the deadline leaves no time to ask the"
                " platform",
                remedy=f"Give it over {LEAST_S + WAY_BACK_S:g} s",
            )
        breaker = self._breakers.get(pipeline, Breaker())
        if not self._hub.incarnation or not breaker.lets(self._now()):
            why = self._hub.why or f"it did not answer {max(breaker.misses, MISSES)} times"
            raise Unavailable(
                f"this site has no version of {pipeline} yet, and the platform is not asked: {why}",
                remedy="Try again in half a minute",
            )
        return breaker

    def _missed(self, breaker: Breaker) -> Breaker:
        return breaker.missed(self._now())
