"""Audits, reports, reviews, and checking evidence anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from penstock.client.connection import Connection
from penstock.cost.v1 import cost_pb2
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.ethics_audit.v1 import ethics_audit_pb2_grpc


class Audits:
    """`penstock.audits`: verdicts, their reports, and what a person decides."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = ethics_audit_pb2_grpc.EthicsAuditServiceStub(connection.channel)

    def get(self, version: str) -> audit.Audit:
        """The newest audit of a version. Raises NotFound while there is none."""
        return self._connection.call(self._stub.GetAudit, audit.GetAuditRequest(version=version))

    def report(self, version: str, *, format: Literal["html", "json"] = "html") -> bytes:  # noqa: A002  the word people use
        """The newest audit's report. Raises NotFound, and Conflict while it runs."""
        request = audit.FetchReportRequest(version=version, format=format)
        return b"".join(part.chunk for part in self._connection.fetch(self._stub.FetchReport, request))

    def reviews(self, pipeline: str = "", *, open_only: bool = True) -> list[audit.Review]:
        """Lists reviews that wait for a person; with `open_only=False` decided ones too. Newest first."""
        request = audit.ListReviewsRequest(pipeline=pipeline, open_only=open_only)
        return list(self._connection.call(self._stub.ListReviews, request).reviews)

    def decide(self, version: str, *, approve: bool, by: str, why: str) -> audit.Review:
        """A person's decision on the gates that may be waived. `by` is a typed name, not an
        identity. Raises Refused.
        """
        request = audit.DecideReviewRequest(version=version, approve=approve, decided_by=by, why=why)
        return self._connection.call(self._stub.DecideReview, request)

    def costs(self, pipeline: str = "", *, month: str = "") -> Sequence[cost_pb2.MonthlyCost]:
        """Sums the costs of audits that ended, by pipeline and month (`2026-11`, UTC), newest first."""
        request = cost_pb2.SumCostsRequest(pipeline=pipeline, month=month)
        return self._connection.call(self._stub.SumCosts, request).months

    def verify(self, version: str) -> audit.VerifyVersionResponse:
        """Digest, signatures and verdict, checked anew from the stored bytes."""
        return self._connection.call(
            self._stub.VerifyVersion, audit.VerifyVersionRequest(version=version), timeout=120
        )
