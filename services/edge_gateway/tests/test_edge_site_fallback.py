"""A site that lacks the promoted version asks the platform where its pipeline's file lets it, in the
caller's time and never in vain for long. The hub is a real server with answers of our choosing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from penstock.contracts.errors import Conflict, Invalid, NotFound, PenstockError, TooLarge, Unavailable
from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.inference.v1 import fallback_pb2 as pb
from penstock.inference.v1.inference_pb2 import Fields, Value
from penstock.packages.keys import Keys
from penstock.runtime import rpc
from penstock.testing import lending, packages
from penstock.testing.wait import until_async
from penstock_edge_gateway.site.breaker import MISSES, OPEN_S
from penstock_edge_gateway.site.fallback import LARGEST, Fallback
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.provenance import Provenance
from penstock_edge_gateway.site.serving import Missing

WHY = NotFound("no pipeline 'loans' is served")
TENSORS = pb.SiteQuestion(pipeline="loans", tensors=b"a question")
FIELDS = pb.SiteQuestion(
    pipeline="loans",
    fields=Fields(fields={"income": Value(number=1.0), "purpose": Value(text="car")}),
)
ALLOWED = {"fallback": {"when": "missing", "within": "500ms"}}


class Platform(hub_pb2_grpc.HubServiceServicer):
    def __init__(self) -> None:
        self.asked: list[hub_pb2.InferRequest] = []
        self.error: PenstockError | None = None
        self.hangs = False
        self.canceled = asyncio.Event()

    async def Infer(self, request: hub_pb2.InferRequest, context: Any) -> hub_pb2.InferResponse:
        self.asked.append(request)
        if self.hangs:
            try:
                await asyncio.sleep(30)  # until its caller gives up
            finally:
                self.canceled.set()
        if self.error:
            raise self.error
        answer = pb.SiteAnswer(prediction=f"p{len(self.asked)}", confidence=0.25, tensors=b"an answer")
        return hub_pb2.InferResponse(answer=answer)


class Site:
    def __init__(self, folder: Path, platform: Platform, channel: grpc.aio.Channel) -> None:
        self.platform = platform
        self.hub = Hub(channel)
        self.hub.incarnation = 7
        self.keys = Keys(folder / "keys")
        self.keys.ensure()
        self.pipelines = Pipelines(folder / "pipelines", folder / "keys")
        self.lacks: Missing | None = Missing("no_version", pipeline_number=1)
        self.now = 0.0
        self.fallback = Fallback(self.hub, self.pipelines, lambda _: self.lacks, lambda: self.now)

    def apply(self, number: int = 1, edge: dict[str, Any] | None = None, **sections: Any) -> None:
        spec = lending.spec(edge=ALLOWED if edge is None else edge, **sections)
        self.pipelines.apply(packages.applied(self.keys, number=number, spec=spec))

    async def ask(
        self, question: Message = TENSORS, within: float | None = None
    ) -> tuple[Provenance, pb.SiteAnswer]:
        copy = pb.SiteQuestion()
        copy.CopyFrom(question)
        return await self.fallback.ask(copy, WHY, within)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    platform, server = Platform(), rpc.server()
    hub_pb2_grpc.add_HubServiceServicer_to_server(platform, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield await asyncio.to_thread(Site, tmp_path, platform, channel)
    await server.stop(None)


async def test_the_answer_says_who_gave_it_and_has_the_platforms_record(site: Site) -> None:
    site.apply()
    for question in (TENSORS, FIELDS):
        provenance, answer = await site.ask(question)
        assert answer.tensors == b"an answer"
    assert provenance == Provenance("p2", "cloud", 0.25, "no_version")
    assert [request.incarnation for request in site.platform.asked] == [7, 7]
    assert site.platform.asked[1].question.degraded == "no_version"
    assert (site.fallback.answered["loans"], site.fallback.breakers()) == (2, {"loans": "closed"})


def _no_fallback(site: Site) -> None:
    site.apply(edge={})


def _nothing_promoted(site: Site) -> None:
    site.apply()
    site.lacks = None


def _no_file(site: Site) -> None:
    pass


@pytest.mark.parametrize("prepare", [_no_fallback, _nothing_promoted, _no_file])
async def test_else_the_site_answers_for_itself(site: Site, prepare: Callable[[Site], None]) -> None:
    prepare(site)
    with pytest.raises(NotFound) as told:
        await site.ask()
    assert told.value is WHY
    assert not site.platform.asked


def _personal(site: Site) -> None:
    """A file of a registry that does not refuse it."""
    site.apply(edge={**ALLOWED, "may_leave": ["purpose", "defaulted", "sex"]})


def _other_file(site: Site) -> None:
    site.apply(number=2, edge={**ALLOWED, "may_leave": ["income", "purpose", "defaulted"]})


def _newer_file(site: Site) -> None:
    """The version is of a file that only a newer release reads."""
    site.apply(edge={**ALLOWED, "may_leave": ["income", "purpose", "defaulted"]})
    with suppress(Invalid, ValueError):
        site.apply(number=2, edge={"fallback": {"when": "of a later release"}})
    assert site.pipelines.numbers == {"loans": 2}
    site.lacks = Missing("no_version", pipeline_number=2)


def _any(site: Site) -> None:
    site.apply()


@pytest.mark.parametrize(
    ("prepare", "question", "kind", "said"),
    [
        (_personal, TENSORS, Conflict, "`income` may not leave this site"),
        (_personal, FIELDS, Conflict, "`income` may not leave this site"),
        (_other_file, TENSORS, Conflict, "was made by another file than that which says now"),
        (_newer_file, TENSORS, Conflict, "was made by another file than that which says now"),
        (
            _any,
            pb.SiteQuestion(pipeline="loans", fields=Fields(fields={"sex": Value(text="f")})),
            Conflict,
            "loans has no feature 'sex', and so it stays at this site",
        ),
        (_any, pb.SiteQuestion(pipeline="loans", tensors=bytes(LARGEST)), TooLarge, "a question of"),
    ],
)
async def test_what_may_not_leave_stays(
    site: Site, prepare: Callable[[Site], None], question: pb.SiteQuestion, kind: type, said: str
) -> None:
    prepare(site)
    with pytest.raises(kind, match=said):
        await site.ask(question)
    assert not site.platform.asked


async def test_named_fields_leave_whatever_file_the_version_is_of(site: Site) -> None:
    _other_file(site)
    assert (await site.ask(FIELDS))[0].prediction == "p1"


async def test_the_caller_waits_no_longer_than_the_file_says_or_its_own_deadline(site: Site) -> None:
    site.apply()
    site.platform.hangs = True
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer within 0\.50 s"):
        await site.ask()
    with pytest.raises(Unavailable, match=r"no answer within 0\.18 s"):
        await site.ask(within=0.2)
    assert time.monotonic() - began < 5
    asked = len(site.platform.asked)
    with pytest.raises(Unavailable, match="the deadline leaves no time to ask the platform"):
        await site.ask(within=0.06)
    assert len(site.platform.asked) == asked
    await asyncio.wait_for(site.platform.canceled.wait(), 10)  # so that the door keeps no record of it


async def test_a_platform_that_does_not_answer_is_left_alone_and_found_again(site: Site) -> None:
    site.apply()
    site.platform.error = Unavailable("Triton is away")
    for _ in range(MISSES):
        with pytest.raises(Unavailable, match=r"gave no answer within 0\.50 s: Triton is away"):
            await site.ask()
    assert site.fallback.breakers() == {"loans": "open"}
    with pytest.raises(Unavailable, match="the platform is not asked"):
        await site.ask()
    assert len(site.platform.asked) == MISSES
    site.now, site.platform.error = OPEN_S, None
    assert site.fallback.breakers() == {"loans": "half_open"}
    assert (await site.ask())[0].prediction == f"p{MISSES + 1}"
    assert site.fallback.breakers() == {"loans": "closed"}


async def test_a_caller_who_leaves_says_nothing_about_the_platform(site: Site) -> None:
    site.apply()
    site.platform.hangs = True
    for _ in range(2 * MISSES):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(site.ask(), 0.05)
    assert site.fallback.breakers() == {"loans": "closed"}


async def test_callers_in_a_hurry_keep_nobody_else_from_asking(site: Site) -> None:
    site.apply()
    site.platform.hangs = True
    for _ in range(2 * MISSES):
        with pytest.raises(Unavailable, match="gave no answer"):
            await site.ask(within=0.08)
    assert site.fallback.breakers() == {"loans": "closed"}
    site.platform.error = Unavailable("Triton is away")
    site.platform.hangs = False
    for _ in range(MISSES):
        with pytest.raises(Unavailable, match="Triton is away"):
            await site.ask()
    assert site.fallback.breakers() == {"loans": "open"}


async def test_a_caller_whose_time_is_over_got_no_answer(site: Site) -> None:
    site.apply()
    site.platform.hangs = True
    for _ in range(MISSES):
        asking = asyncio.create_task(site.ask(within=0.3))
        await until_async(lambda: site.platform.asked)
        site.now += 0.25
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        site.platform.asked.clear()
    assert site.fallback.breakers() == {"loans": "open"}


async def test_what_the_platform_says_is_an_answer(site: Site) -> None:
    site.apply()
    site.platform.error = Invalid("must be a number", where="income")
    for _ in range(2 * MISSES):
        with pytest.raises(Invalid, match="income: must be a number"):
            await site.ask()
    assert site.fallback.breakers() == {"loans": "closed"}


async def test_before_the_hub_has_greeted_the_site_nothing_waits(site: Site) -> None:
    site.apply()
    site.hub.incarnation = 0
    with pytest.raises(Unavailable, match="the platform is not asked: it was not called yet"):
        await site.ask()
    assert not site.platform.asked
