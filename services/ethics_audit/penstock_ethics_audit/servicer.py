"""gRPC: audits, reports, reviews, verification. Translates, nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import grpc
from sqlalchemy.orm import Session

from penstock.contracts.errors import Invalid, NotFound, Tampered
from penstock.contracts.events import GateResult, ModelVersionPromoted
from penstock.cost.v1 import cost_pb2
from penstock.ethics_audit.v1 import ethics_audit_pb2 as pb
from penstock.ethics_audit.v1 import ethics_audit_pb2_grpc as pb_grpc
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.costs import cost_message, summed
from penstock.runtime.rpc import shown, timestamp
from penstock.runtime.store import Store
from penstock_ethics_audit import store as rows
from penstock_ethics_audit.desk import Desk
from penstock_ethics_audit.looks import Looks, words
from penstock_ethics_audit.store import AuditRow, ReviewRow
from penstock_ethics_audit.verification import verify

Context = grpc.aio.ServicerContext[Any, Any]
CHUNK_BYTES = 256 * 1024
FORMATS = {"": "report", "html": "report", "json": "result"}
_STATES = {
    rows.RUNNING: pb.Audit.STATE_RUNNING,
    rows.COMPLETED: pb.Audit.STATE_COMPLETED,
    rows.FAILED: pb.Audit.STATE_FAILED,
}


class Servicer(pb_grpc.EthicsAuditServiceServicer):
    def __init__(self, desk: Desk, store: Store, artifacts: Artifacts, keys: Keys) -> None:
        self._desk = desk
        self._store = store
        self._artifacts = artifacts
        self._keys = keys

    async def GetAudit(self, request: pb.GetAuditRequest, context: Context) -> pb.Audit:
        row = await self._find(request.version)
        result = b""
        if row.state == rows.COMPLETED:
            result = await asyncio.to_thread(self._artifacts.read, row.artifact("result"))
        return _audit(row, result.decode())

    async def FetchReport(
        self, request: pb.FetchReportRequest, context: Context
    ) -> AsyncIterator[pb.FetchReportResponse]:
        if request.format not in FORMATS:
            raise Invalid(
                f"there is no report as {request.format!r}", where="format", remedy="Ask for html or json"
            )
        artifact = (await self._find(request.version)).artifact(FORMATS[request.format])
        data = await asyncio.to_thread(self._artifacts.read, artifact)
        for start in range(0, len(data), CHUNK_BYTES):
            yield pb.FetchReportResponse(chunk=data[start : start + CHUNK_BYTES])

    async def ListReviews(self, request: pb.ListReviewsRequest, context: Context) -> pb.ListReviewsResponse:
        def review(session: Session, audit_id: str) -> tuple[ReviewRow, AuditRow]:
            return session.get_one(ReviewRow, audit_id), session.get_one(AuditRow, audit_id)

        def listed(session: Session) -> list[tuple[ReviewRow, AuditRow]]:
            found = rows.reviews(session, request.pipeline, open_only=request.open_only)
            return shown(found, partial(review, session))

        def told(found: tuple[ReviewRow, AuditRow]) -> pb.Review:
            return _review(found[0], self._looks(found[1]) if found[0].state == rows.OPEN else "")

        found = await self._store.read(listed)
        return pb.ListReviewsResponse(reviews=await asyncio.to_thread(shown, found, told))

    async def DecideReview(self, request: pb.DecideReviewRequest, context: Context) -> pb.Review:
        decide = partial(
            self._desk.decide,
            request.version,
            approve=request.approve,
            decided_by=request.decided_by,
            why=request.why,
        )
        return _review(await self._store.write(decide))

    async def VerifyVersion(
        self, request: pb.VerifyVersionRequest, context: Context
    ) -> pb.VerifyVersionResponse:
        def look(session: Session) -> tuple[AuditRow, ReviewRow | None, ModelVersionPromoted | None]:
            audit = rows.find_audit(session, request.version)
            review = session.get(ReviewRow, audit.audit_id)
            return audit, review, rows.last_promotion(session, audit.digest)

        audit, review, promotion = await self._store.read(look)
        checks = await asyncio.to_thread(verify, audit, review, promotion, self._artifacts, self._keys)
        return pb.VerifyVersionResponse(
            valid=all(check.holds for check in checks),
            checks=[pb.Check(what=check.what, holds=check.holds, detail=check.detail) for check in checks],
        )

    async def SumCosts(
        self, request: cost_pb2.SumCostsRequest, context: Context
    ) -> cost_pb2.SumCostsResponse:
        return await self._store.read(lambda session: summed(rows.costs(session), request))

    def _looks(self, audit: AuditRow) -> str:
        """Says what the audit's result knows of earlier looks at its rows. Blocks."""
        try:
            result = json.loads(self._artifacts.read(audit.artifact("result")))
        except (Invalid, NotFound, Tampered) as error:
            return f"Earlier looks at these audit rows are not known: {error}."
        return words(Looks.model_validate(result.get("looks", {})), audit.gates)  # a release before kept none

    async def _find(self, reference: str) -> AuditRow:
        return await self._store.read(lambda session: rows.find_audit(session, reference))


def _audit(row: AuditRow, result: str) -> pb.Audit:
    envelope = row.evidence
    return pb.Audit(
        audit_id=row.audit_id,
        pipeline=row.pipeline,
        digest=row.digest,
        state=_STATES[row.state],
        verdict=row.verdict or "",
        gates=_gates(row.gates),
        keyid=envelope.signatures[0].keyid if envelope else "",
        failure=row.failure or "",
        remedy=row.remedy or "",
        completed_at=timestamp(row.ended_at) if row.state == rows.COMPLETED else None,
        result_json=result,
        cost=cost_message(row.cost),
    )


def _review(row: ReviewRow, looks: str = "") -> pb.Review:
    return pb.Review(
        pipeline=row.pipeline,
        digest=row.digest,
        audit_id=row.audit_id,
        gates=_gates(row.gates),
        state=row.state,
        decided_by=row.decided_by or "",
        why=row.why or "",
        requested_at=timestamp(row.requested_at),
        decided_at=timestamp(row.decided_at),
        looks=looks,
    )


def _gates(gates: Iterable[GateResult]) -> list[pb.Gate]:
    return [
        pb.Gate(
            metric=gate.metric,
            by=gate.by or "",
            bound=gate.bound,
            limit=gate.limit,
            judge=gate.judge,
            value=pb.Interval(estimate=gate.value.estimate, lower=gate.value.lower, upper=gate.value.upper)
            if gate.value
            else None,
            verdict=gate.verdict,
            on_fail=gate.on_fail,
            reason=gate.reason,
        )
        for gate in gates
    ]
