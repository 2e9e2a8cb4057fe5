"""Publishing over HTTP: one event or a list, each answered when on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.errors import NotFound
from penstock.contracts.pipeline import Pipeline
from penstock.testing import lending
from penstock_edge_gateway.site.http_publish import MAX_BODY_BYTES, Message, PublishOverHttp, Receive, Send
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.spool import Record, Spool

EVENTS = "/v1/pipelines/loans/sources/applications/events"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "events.db", durable=True, size=1 << 20) as spool:
        yield spool


async def post(spool: Spool, body: bytes, path: str = EVENTS, method: str = "POST") -> tuple[int, Any]:
    """Status and answer."""

    def find(name: str) -> Pipeline:
        if name != "loans":
            raise NotFound(f"no pipeline {name}")
        return lending.pipeline()

    async def others(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418})
        await send({"type": "http.response.body", "body": b"null"})

    parts = [body[at : at + 100_000] for at in range(0, max(1, len(body)), 100_000)]
    sent: list[Message] = []

    async def receive() -> Message:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    now = datetime(2026, 3, 1, tzinfo=UTC)
    keys = PseudonymKeys(Path("nowhere"))
    publisher = Publisher(
        find, Lane("events", spool), age=timedelta(1), clock=lambda: now, pseudonym=keys.pseudonym
    )
    await PublishOverHttp(publisher, others)({"path": path, "method": method}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def event(number: int, **more: object) -> dict[str, object]:
    said = {"application_id": f"a{number}", "applicant_id": f"p{number}", "at": "2026-02-01T12:00:00Z"}
    return said | more


def kept(spool: Spool) -> list[object]:
    return [json.loads(one.body) for one in spool.read(100, 1 << 20).entries if isinstance(one, Record)]


async def test_one_event_or_a_list_of_them(spool: Spool) -> None:
    assert await post(spool, json.dumps(event(0)).encode()) == (200, {"accepted": 1, "rejected": []})
    status, said = await post(spool, json.dumps([event(1), event(2, income="much"), event(3)]).encode())
    assert (status, said["accepted"]) == (200, 2)
    (reject,) = said["rejected"]
    assert (reject["index"], reject["reason"], reject["field"]) == (1, "wrong_type", "income")
    assert kept(spool) == [event(0), event(1), event(3)]


@pytest.mark.parametrize("body", [b"", b"{", b"3", b'{"application_id": "a"}', b"[[]]"])
async def test_what_is_no_event_is_told_so(spool: Spool, body: bytes) -> None:
    status, said = await post(spool, body)
    assert (status, said["accepted"]) == (422, 0)
    assert said["rejected"][0]["detail"]


async def test_errors_have_a_status_and_a_sentence(spool: Spool) -> None:
    one = json.dumps(event(0)).encode()
    assert await post(spool, one, EVENTS.replace("loans", "lones")) == (404, {"error": "no pipeline lones"})
    assert (await post(spool, one, EVENTS.replace("applications", "people")))[0] == 404
    status, said = await post(spool, b"x" * (MAX_BODY_BYTES + 1))
    assert status == 413
    assert "at most 4 MiB" in said["error"]
    many = json.dumps([event(number, purpose="x" * 9000) for number in range(100)]).encode()
    assert (await post(spool, many))[0] == 200
    status, said = await post(spool, many)
    assert status == 507
    assert "no event was taken since" in said["error"]


async def test_all_else_goes_elsewhere(spool: Spool) -> None:
    assert (await post(spool, b"", EVENTS, "GET"))[0] == 418
    assert (await post(spool, b"", "/v2/models/loans/infer"))[0] == 418
