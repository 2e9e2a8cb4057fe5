"""Questions that sites cannot answer themselves, handed on to the platform: of pipelines whose file lets
them, and recorded by its door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

from penstock.contracts import metrics
from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Denied, PenstockError
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.site_door import DOOR_HEADER
from penstock.inference.v1 import fallback_pb2, fallback_pb2_grpc
from penstock.runtime.metrics import counter

LONGEST_S: Final = 30.0  # that the platform's door gives a prediction

_ASKED = counter(metrics.FALLBACKS)


class Questions:
    def __init__(self, inference: grpc.aio.Channel, secret: str, declared: Callable[[str], Pipeline]) -> None:
        """`secret`: of the hub and inference. `declared`: the applied file of a pipeline, raises NotFound."""
        self._stub = fallback_pb2_grpc.FallbackServiceStub(inference)
        self._secret = secret
        self._declared = declared
        _ASKED.add(0, {"outcome": "answered"})  # so that there is a rate from the first one on

    async def ask(
        self, site: str, question: fallback_pb2.SiteQuestion, within_s: float | None
    ) -> fallback_pb2.SiteAnswer:
        """Asks the platform. Raises Denied where the pipeline is not asked for by sites, and what
        inference says.
        """
        self.check_allowed(question.pipeline)
        request = fallback_pb2.AnswerRequest(site=site, question=question)
        try:
            answer = await self._stub.Answer(
                request,
                timeout=LONGEST_S if within_s is None else min(within_s, LONGEST_S),
                metadata=((DOOR_HEADER, self._secret),),
            )
        except grpc.aio.AioRpcError as error:
            told: PenstockError = error_of_call(error)
            _ASKED.add(1, {"outcome": told.kind.value})
            raise told from error
        _ASKED.add(1, {"outcome": "answered"})
        return answer

    def check_allowed(self, name: str) -> None:
        """Raises Denied where sites may not ask for the pipeline, NotFound."""
        file = self._declared(name)
        if file.edge.fallback is None:
            raise Denied(
                f"sites answer for {name} themselves: its file has no fallback",
                where="edge.fallback",
                remedy="Apply one with `edge: {fallback: {when: missing}}`",
            )
        if withheld := file.features_withheld():
            raise Denied(f"`{withheld[0][0]}` may not leave a site, so {name} cannot be asked for from one")
