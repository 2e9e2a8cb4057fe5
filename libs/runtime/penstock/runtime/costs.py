"""Costs of jobs as services tell them: of one, and summed by pipeline and month."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from penstock.contracts.errors import Invalid
from penstock.contracts.events import Cost
from penstock.cost.v1 import cost_pb2 as pb

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


def cost_message(cost: Cost | None) -> pb.Cost | None:
    return None if cost is None else pb.Cost(**cost.model_dump())


def summed(jobs: Iterable[tuple[str, datetime, Cost]], request: pb.SumCostsRequest) -> pb.SumCostsResponse:
    """Sums the costs of jobs, each with its pipeline and when it ended, by month in UTC. Raises Invalid
    for what is no month.
    """
    if request.month and not _MONTH.fullmatch(request.month):
        raise Invalid(f"`{request.month}` is no month", where="month", remedy="Write it as in 2026-11")
    found: dict[tuple[str, str], list[Cost]] = {}
    for pipeline, ended_at, cost in jobs:
        month = f"{ended_at.astimezone(UTC):%Y-%m}"
        if request.pipeline in ("", pipeline) and request.month in ("", month):
            found.setdefault((month, pipeline), []).append(cost)
    return pb.SumCostsResponse(
        months=[
            pb.MonthlyCost(
                pipeline=pipeline, month=month, jobs=len(costs), cost=cost_message(sum(costs, Cost()))
            )
            for (month, pipeline), costs in sorted(found.items(), reverse=True)
        ]
    )
