"""Facts that a service tells of itself when somebody asks for its status."""

from datetime import UTC, datetime
from typing import Any

from penstock.runtime.readiness import Readiness
from penstock.runtime.status import Facts, StatusServicer
from penstock.status.v1 import status_pb2


async def test_what_a_reader_tells_no_more_goes_and_what_it_cannot_read_stands() -> None:
    """Rows of a pipeline that was deleted would say that they are still there."""
    readiness = Readiness(lambda: datetime.now(UTC))
    readiness.fact("lake", "owns the lake")
    status = StatusServicer("feature_store", readiness, datetime.now(UTC))
    told: dict[str, str] | None = {"loans": "loans 7 rows", "trap": "trap 2 rows"}

    def rows() -> Facts:
        if told is None:
            raise OSError("the database is away")
        return dict(told)

    async def facts() -> list[str]:
        context: Any = None
        answer = await status.GetStatus(status_pb2.GetStatusRequest(), context)
        return list(answer.services[0].facts)

    status.readers += [rows, lambda: {"sets": "1 set"}]
    assert await facts() == ["owns the lake", "loans 7 rows", "trap 2 rows", "1 set"]
    del told["trap"]
    assert await facts() == ["owns the lake", "loans 7 rows", "1 set"]
    told = None
    assert await facts() == ["owns the lake", "loans 7 rows", "1 set"]
