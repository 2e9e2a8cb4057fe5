"""The service from event to evidence: real database, real child process, real gRPC; Kafka in the
test that is marked so.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer, Producer
from sqlalchemy import select

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import (
    Conflict,
    Invalid,
    Kind,
    NotFound,
    PenstockError,
    Refused,
    Tampered,
    Unavailable,
)
from penstock.contracts.events import (
    AuditCompleted,
    AuditFailed,
    AuditStarted,
    Envelope,
    Event,
    ModelVersionRegistered,
    PipelineApplied,
    ReviewDecided,
    ReviewRequested,
    decode,
    encode,
)
from penstock.contracts.pipeline import Audit, Pipeline
from penstock.contracts.topics import SHARED
from penstock.ethics_audit.v1 import ethics_audit_pb2 as pb
from penstock.ethics_audit.v1.ethics_audit_pb2_grpc import (
    EthicsAuditServiceStub,
    add_EthicsAuditServiceServicer_to_server,
)
from penstock.packages import dsse, evidence
from penstock.packages.evidence import Verdict, Waiver
from penstock.packages.facts import signed
from penstock.packages.keys import Keys
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.child import JobContext
from penstock.runtime.cloud_events import headers_of
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store, assert_migrations_match
from penstock.runtime.tables import JobRow, OutboxRow
from penstock.testing import packages as made
from penstock.testing.broker import free_ports
from penstock.testing.history import restored
from penstock.testing.plugin import Databases
from penstock.testing.processes import job_of
from penstock.testing.stores import new_store
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until as wait_until
from penstock_ethics_audit.desk import JOB, Desk
from penstock_ethics_audit.handlers import applied as applied_pipelines
from penstock_ethics_audit.handlers import router
from penstock_ethics_audit.history import History
from penstock_ethics_audit.looks import Looks, looked, rules_of
from penstock_ethics_audit.servicer import Servicer
from penstock_ethics_audit.store import AskedRow, AuditRow, PromotionRow, ReviewRow, Tables

World = Any  # the fixture's class lives in conftest.py

REVIEW = made.gate("inconclusive", "review")
BLOCK = made.gate("fail", "block")


@pytest.fixture
def fresh(database: str) -> Any:
    opened = new_store(database, "penstock_ethics_audit.migrations")
    yield opened
    opened.close()


@pytest.fixture
def store(fresh: Store) -> Store:
    """One that knows a file of `loans` newer than the one that the versions are of, which went with
    a lost database.
    """
    with in_a_thread(fresh.transaction()) as effect:
        effect.session.add(AskedRow(pipeline="loans", number=2, audit=Audit()))
    return fresh


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world.keys, world.artifacts.root, lambda: datetime.now(UTC))


def published(store: Store) -> list[Event]:
    with in_a_thread(store.snapshot()) as session:
        return [
            event
            for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id))
            if (event := decode(row.event_type, row.value))
        ]


def one(store: Store, kind: type[Any]) -> Any:
    (found,) = [event for event in published(store) if isinstance(event, kind)]
    return found


def audits(store: Store) -> list[AuditRow]:
    with in_a_thread(store.snapshot()) as session:
        return list(session.scalars(select(AuditRow).order_by(AuditRow.audit_id)))


def file(world: World, number: int) -> PipelineApplied:
    """Of `loans`."""
    spec = world.pipeline("binary", [{"metric": "auroc", "at_least": 0.7}]).model_dump(
        mode="json", by_alias=True
    )
    return made.applied(world.keys, "", number, spec=spec)


def begin(desk: Desk, store: Store, event: ModelVersionRegistered) -> str:
    with in_a_thread(store.transaction()) as effect:
        audit_id = desk.begin(event, effect)
    assert audit_id is not None
    return audit_id


def decide(desk: Desk, store: Store, reference: str, **said: Any) -> ReviewRow:
    with in_a_thread(store.transaction()) as effect:
        return desk.decide(reference, effect, **said)


def completed(
    desk: Desk,
    store: Store,
    world: World,
    *gates: Any,
    version: Any = None,
    begun: Callable[[], None] = lambda: None,
    looks: Looks | None = Looks(),  # noqa: B008  a value that never changes
) -> AuditCompleted:
    """An audit that the job is said to have done with these gates; `begun` is called before."""
    version = version or made.version("sha256:" + uuid.uuid4().hex * 2, world.keys)
    audit_id = begin(desk, store, made.registered(world.keys, version))
    begun()
    said = {gate.verdict for gate in gates}
    report = world.artifacts.put_bytes(f"audits/{audit_id}/report.html", b"<p>report</p>").model_dump(
        mode="json"
    )
    scores = world.artifacts.put_bytes(f"audits/{audit_id}/scores.npz", b"scores").model_dump(mode="json")
    result: dict[str, Any] = {"report_digest": report["digest"], "scores_digest": scores["digest"]}
    if looks is not None:  # a release before kept none
        result["looks"] = looks.model_dump(mode="json")
    with in_a_thread(store.transaction()) as effect:
        desk.complete(
            audit_id,
            {
                "verdict": "fail" if "fail" in said else "inconclusive" if "inconclusive" in said else "pass",
                "gates": [gate.model_dump(mode="json") for gate in gates],
                "report": report,
                "result": world.artifacts.put_bytes(
                    f"audits/{audit_id}/result.json", json.dumps(result).encode()
                ).model_dump(mode="json"),
                "scores": scores,
            },
            effect,
        )
    return [event for event in published(store) if isinstance(event, AuditCompleted)][-1]


@asynccontextmanager
async def serving(desk: Desk, store: Store, world: World) -> AsyncIterator[EthicsAuditServiceStub]:
    server = rpc.server()
    add_EthicsAuditServiceServicer_to_server(Servicer(desk, store, world.artifacts, world.keys), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = rpc.connect(f"127.0.0.1:{port}")
    try:
        yield EthicsAuditServiceStub(channel)
    finally:
        await channel.close()
        await server.stop(None)


async def refused(call: Any) -> PenstockError:
    with pytest.raises(grpc.RpcError) as error:
        await call
    return error_of_call(error.value)


def mapped(pid: int) -> str:
    with open(f"/proc/{pid}/maps") as maps:
        return maps.read()


# -- from a registered version to evidence ---------------------------------------------------------


async def test_a_registered_version_becomes_signed_evidence(world: World, store: Store, desk: Desk) -> None:
    from penstock_ethics_audit import job  # a second of every worker, were it imported above

    registered = world.registered(gap=0.9)
    audit_id = begin(desk, store, registered)
    with in_a_thread(store.snapshot()) as session:
        (order,) = session.scalars(select(JobRow.payload))
    result = job.run(JobContext(audit_id, JOB, order, 1, None, io.StringIO()))
    with in_a_thread(store.transaction()) as effect:
        desk.complete(audit_id, result, effect)
    event = one(store, AuditCompleted)
    assert (event.digest, event.verdict) == (registered.version.digest, "fail")
    verdict = dsse.verify(event.evidence, world.keys.trust(), Verdict)
    assert (verdict.digest, verdict.gates, verdict.result_digest) == (
        event.digest,
        event.gates,
        event.result.digest,
    )
    assert {gate.metric for gate in one(store, ReviewRequested).gates} == {"equalized_odds_difference"}

    prefix = event.digest.removeprefix("sha256:")[:8]
    async with serving(desk, store, world) as stub:
        audit = await stub.GetAudit(pb.GetAuditRequest(version=f"loans@{prefix}"))
        assert (audit.state, audit.verdict, audit.keyid) == (
            pb.Audit.STATE_COMPLETED,
            "fail",
            world.keys.signer("audit").keyid,
        )
        assert json.loads(audit.result_json)["digest"] == event.digest
        html = b"".join(
            [part.chunk async for part in stub.FetchReport(pb.FetchReportRequest(version=prefix))]
        )
        assert b"Did not pass" in html
        before = await stub.VerifyVersion(pb.VerifyVersionRequest(version=prefix))
        assert {check.what: check.holds for check in before.checks} == {
            "pipeline signature": True,
            "training set signature": True,
            "run signature": True,
            "package digest": True,
            "OpenSSF model signature": True,
            "verdict signature": True,
            "result and report": True,
            "gates": False,
        }
        assert not any("erased since" in check.detail for check in before.checks)
        made_of = registered.version.training_set
        since = (
            signed(
                made_of.model_copy(update={"left": {"train": 5, "audit": 2}}),
                world.keys.signer("feature_store"),
            )
            .model_dump_json()
            .encode()
        )
        world.artifacts.put_bytes("training-sets/T1/training_set.json", since)
        erased = await stub.VerifyVersion(pb.VerifyVersionRequest(version=prefix))
        said = {check.what: check.detail for check in erased.checks}["training set signature"]
        assert said.endswith("(7 of these rows were erased since)")
        review = await stub.DecideReview(
            pb.DecideReviewRequest(
                version=prefix,
                approve=True,
                decided_by="Ada Lovelace",
                why="a pilot of 20 people, each decision checked",
            )
        )
        assert (review.state, review.decided_by) == ("approved", "Ada Lovelace")
        after = await stub.VerifyVersion(pb.VerifyVersionRequest(version=prefix))
        assert after.valid
        assert "a typed name, not a proven identity" in next(
            check.detail for check in after.checks if check.what == "waiver signature"
        )

        report = event.report.uri.removeprefix("file://")
        flipped = bytearray(html)
        flipped[100] ^= 1
        with open(report, "wb") as file:  # noqa: ASYNC230
            file.write(flipped)
        tampered = await stub.VerifyVersion(pb.VerifyVersionRequest(version=prefix))
        assert not tampered.valid
        assert [check.what for check in tampered.checks if not check.holds] == ["result and report"]
    waiver = one(store, ReviewDecided).waiver
    assert waiver is not None
    assert evidence.closed_gates(verdict, dsse.verify(waiver, world.keys.trust(), Waiver)) == []


async def test_verify_says_who_promoted_it_and_sees_a_forged_grant(
    world: World, store: Store, desk: Desk, tmp_path: Path
) -> None:
    proof = completed(desk, store, world, made.AUROC_PASSED).evidence
    stranger = Keys(tmp_path / "stranger")
    stranger.ensure()
    (version,) = (row.version for row in audits(store))
    honest = made.promotion(world.keys, version, proof)
    hear = router(desk, store).handlers[honest.ce_type()][1]

    async def said() -> list[tuple[bool, str]]:
        async with serving(desk, store, world) as stub:
            found = await stub.VerifyVersion(pb.VerifyVersionRequest(version=version.digest))
        return [(one.holds, one.detail) for one in found.checks if one.what == "promotion signature"]

    assert await said() == []
    with in_a_thread(store.transaction()) as effect:
        hear(honest, effect)
    ((holds, detail),) = await said()
    assert holds
    assert detail.startswith(
        "generation 1, promoted by penstock (not a proven identity); by the registry, key"
    )
    other = made.promotion(stranger, version, proof)
    for forged in (other, *({"promoted_by": "Mallory"}, {"promotion": other.promotion}, {"statement": None})):
        event = honest.model_copy(update=forged) if isinstance(forged, dict) else forged
        with pytest.raises(Tampered), in_a_thread(store.transaction()) as effect:
            hear(event, effect)
        with in_a_thread(store.transaction()) as effect:  # whoever can write to the database
            effect.session.merge(PromotionRow.of(event))
        assert [holds for holds, _ in await said()] == [False]


def test_a_flipped_byte_of_the_verdict_does_not_verify(world: World, store: Store, desk: Desk) -> None:
    envelope = completed(desk, store, world, made.AUROC_PASSED).evidence
    dsse.verify(envelope, world.keys.trust(), Verdict)
    flipped = envelope.payload[:40] + ("A" if envelope.payload[40] != "A" else "B") + envelope.payload[41:]
    with pytest.raises(Tampered):
        dsse.verify(
            Envelope.model_validate({**envelope.model_dump(), "payload": flipped}),
            world.keys.trust(),
            Verdict,
        )


def test_a_version_is_audited_once_and_again_only_after_a_failure(
    world: World, store: Store, desk: Desk
) -> None:
    event = made.registered(world.keys, made.version("sha256:" + "a" * 64, world.keys))
    first = begin(desk, store, event)
    with store.transaction() as effect:
        assert desk.begin(event, effect) is None
        desk.fail(first, Kind.UNAVAILABLE, "the artifact store does not answer", "Start it", effect)
    failed = one(store, AuditFailed)
    assert (failed.reason, failed.remedy) == ("the artifact store does not answer", "Start it")
    assert begin(desk, store, event) != first


def test_without_a_key_nothing_is_claimed(world: World, store: Store, desk: Desk) -> None:
    with pytest.raises(Unavailable, match="no key of role audit"):
        completed(desk, store, world, made.AUROC_PASSED, begun=(world.keys.directory / "audit.pem").unlink)
    assert audits(store)[0].state == "running"  # nothing was committed: the result waits for the key


async def test_the_job_is_told_what_the_applied_file_asks_whichever_comes_in_first(
    world: World, fresh: Store, desk: Desk
) -> None:
    house, pipelines = router(desk, fresh), applied_pipelines(desk, fresh, world.keys)
    applied = file(world, 1)
    registered = made.registered(world.keys, made.version("sha256:" + "b" * 64, world.keys))
    orders: list[dict[str, Any]] = []
    hear = house.handlers[registered.ce_type()][1]
    with (
        pytest.raises(Unavailable, match="number 1 of `loans` has not come in yet"),
        in_a_thread(fresh.transaction()) as effect,
    ):
        hear(registered, effect)
    await restored(pipelines, [applied])
    with in_a_thread(fresh.transaction()) as effect:
        effect.enqueue = lambda kind, job, order: orders.append(order) or True  # type: ignore[method-assign,func-returns-value]
        hear(registered, effect)
    assert orders[0]["asked"] == Pipeline.model_validate(applied.spec).audit


# -- a lost database -------------------------------------------------------------------------------


@pytest.fixture
def empty(databases: Databases) -> Any:
    with databases() as url:
        yield url


async def lose_the_database(url: str, desk: Desk, world: World, announced: list[Event]) -> Store:
    """The service's next start, from what its topics hold."""
    found = Store.open(url, migrations="penstock_ethics_audit.migrations")
    await restored(applied_pipelines(desk, found, world.keys), announced)
    await restored(History(found, desk, world.keys), announced)
    return found


async def test_after_a_lost_database_verdicts_and_decisions_are_there_and_what_waited_is_audited(
    world: World, store: Store, desk: Desk, empty: str
) -> None:
    passed, approved, rejected, opened = (
        completed(desk, store, world, made.AUROC_PASSED),
        *(completed(desk, store, world, made.AUROC_PASSED, REVIEW) for _ in range(3)),
    )
    decide(desk, store, approved.digest, approve=True, decided_by="Ada", why="pilot")
    decide(desk, store, rejected.digest, approve=False, decided_by="Bob", why="no")
    digest = "sha256:" + "c" * 64
    waits = made.registered(world.keys, made.version(digest, world.keys))
    begin(desk, store, waits)  # its job goes with the database
    versions = [made.registered(world.keys, row.version) for row in audits(store)]
    found = await lose_the_database(empty, desk, world, [file(world, 1), *versions, *published(store)])

    def rows(of: Store) -> list[tuple[Any, ...]]:
        with in_a_thread(of.snapshot()) as session:
            reviews = {
                row.audit_id: (row.state, row.decided_by, row.why, row.waiver)
                for row in session.scalars(select(ReviewRow))
            }
        return [
            (r.audit_id, r.state, r.verdict, r.evidence, r.report, reviews.get(r.audit_id))
            for r in audits(of)
            if r.state == "completed"
        ]

    assert rows(found) == rows(store)
    assert [row[-1][0] for row in rows(found) if row[-1]] == ["approved", "rejected", "open"]
    assert decide(desk, found, opened.digest, approve=True, decided_by="Ada", why="late").state == "approved"
    (begun,) = [row for row in audits(found) if row.state == "running"]
    assert begun.digest == digest
    with in_a_thread(found.snapshot()) as session:
        assert [row.job_id for row in session.scalars(select(JobRow))] == [begun.audit_id]
    assert passed.digest not in {
        event.digest for event in published(found) if isinstance(event, AuditStarted)
    }
    found.close()


async def test_what_it_did_not_sign_is_not_its_history(
    world: World, store: Store, desk: Desk, empty: str
) -> None:
    honest = completed(desk, store, world, made.AUROC_PASSED, BLOCK)
    forged = honest.model_copy(update={"verdict": "pass"})
    registered = made.registered(world.keys, audits(store)[0].version)
    found = await lose_the_database(empty, desk, world, [file(world, 1), registered, forged])
    assert [(row.state, row.verdict) for row in audits(found)] == [("running", None)], "it is audited anew"
    found.close()


async def test_a_database_that_holds_an_audit_is_left_alone(world: World, store: Store, desk: Desk) -> None:
    completed(desk, store, world, made.AUROC_PASSED)
    history = History(store, desk, world.keys)
    await history.look()
    assert history.router is None


# -- looks at the same audit rows ------------------------------------------------------------------


def orders(store: Store) -> list[dict[str, Any]]:
    with in_a_thread(store.snapshot()) as session:
        return [row.payload for row in session.scalars(select(JobRow).order_by(JobRow.id))]


async def reviewed(desk: Desk, store: Store, world: World) -> list[str]:
    """What is said of looks in the list of reviews, newest first."""
    async with serving(desk, store, world) as stub:
        return [one.looks for one in (await stub.ListReviews(pb.ListReviewsRequest())).reviews]


async def test_earlier_audits_are_known_and_looks_are_said_also_after_a_lost_database(
    world: World, store: Store, desk: Desk, empty: str
) -> None:
    asked = REVIEW.model_copy(update={"limit": 0.1})
    looks = [looked(30, [(30, rules_of([asked]))] * number) for number in range(3)]
    done = [
        completed(desk, store, world, gate, looks=found)
        for gate, found in zip((asked, asked, REVIEW), looks, strict=True)
    ]
    told = [[one["scores"]["uri"] for one in order["earlier"]] for order in orders(store)]
    assert told == [[one.scores.uri for one in done[:number]] for number in range(3)]
    said = [
        "3rd look at these audit rows: 2 audits judged models by them before."
        " equalized_odds_difference by sex at_most was 0.1 in looks 1 to 2, now 0.15: looser.",
        "2nd look at these audit rows: an audit judged models by them before.",
        "",
    ]
    assert await reviewed(desk, store, world) == said
    versions = [made.registered(world.keys, row.version) for row in audits(store)]
    found = await lose_the_database(empty, desk, world, [file(world, 1), *versions, *published(store)])
    assert await reviewed(desk, found, world) == said
    begin(desk, found, made.registered(world.keys, made.version("sha256:" + "7" * 64, world.keys)))
    assert len(orders(found)[-1]["earlier"]) == 3
    found.close()


async def test_a_review_is_listed_though_its_result_is_gone_or_of_a_release_before(
    world: World, store: Store, desk: Desk
) -> None:
    older = completed(desk, store, world, REVIEW, looks=None)
    kept, lost = (completed(desk, store, world, REVIEW) for _ in range(2))
    world.artifacts.remove(lost.result)
    async with serving(desk, store, world) as stub:
        listed = (await stub.ListReviews(pb.ListReviewsRequest())).reviews
    assert [one.digest for one in listed] == [lost.digest, kept.digest, older.digest]
    assert ["are not known" in one.looks for one in listed] == [True, False, False]


async def test_a_store_that_is_no_more_asked_hides_no_review_and_breaks_no_signature(
    world: World, store: Store, desk: Desk, tmp_path: Path
) -> None:
    """As an operator leaves it who names another root in PENSTOCK_ARTIFACTS, and not the one of before."""
    done = completed(desk, store, world, REVIEW)
    moved = SimpleNamespace(artifacts=Artifacts(f"file://{tmp_path}/elsewhere"), keys=world.keys)
    async with serving(desk, store, moved) as stub:
        [review] = (await stub.ListReviews(pb.ListReviewsRequest())).reviews
        verified = await stub.VerifyVersion(pb.VerifyVersionRequest(version=done.digest))
    assert "are not known" in review.looks
    holds = {check.what: check.holds for check in verified.checks}
    assert (holds["training set signature"], holds["package digest"]) == (True, False)


# -- reviews ---------------------------------------------------------------------------------------


async def test_what_a_person_may_decide(world: World, store: Store, desk: Desk) -> None:
    waivable = completed(desk, store, world, made.AUROC_PASSED, REVIEW)
    blocked = completed(desk, store, world, REVIEW, BLOCK)
    passed = completed(desk, store, world, made.AUROC_PASSED)

    def decide(event: AuditCompleted, **said: Any) -> Any:
        return stub.DecideReview(
            pb.DecideReviewRequest(
                version=event.digest, **{"approve": True, "decided_by": "Ada", "why": "pilot"} | said
            )
        )

    async with serving(desk, store, world) as stub:
        listed = (await stub.ListReviews(pb.ListReviewsRequest(open_only=True))).reviews
        assert [(review.digest, review.state) for review in listed] == [(waivable.digest, "open")]
        error = await refused(decide(blocked))
        assert isinstance(error, Refused)
        assert "cannot be waived by anybody" in str(error)
        assert "equalized_odds_difference by sex at_most 0.15" in str(error)
        assert "nothing to waive" in str(await refused(decide(passed)))
        assert isinstance(await refused(decide(waivable, decided_by=" ")), Invalid)
        assert isinstance(await refused(decide(waivable, why="")), Invalid)
        assert (await decide(waivable, approve=False, why="no")).state == "rejected"
        again = await refused(decide(waivable))
        assert isinstance(again, Conflict)
        assert "rejected by Ada: no" in str(again)
        assert not (await stub.ListReviews(pb.ListReviewsRequest(pipeline="loans", open_only=True))).reviews
        assert not (await stub.ListReviews(pb.ListReviewsRequest(pipeline="other"))).reviews
    decided = one(store, ReviewDecided)
    assert (decided.decision, decided.waiver) == ("rejected", None)


def test_nobody_is_asked_about_a_version_whose_pipeline_is_deleted_while_it_is_audited(
    world: World, store: Store, desk: Desk
) -> None:
    def forget() -> None:
        with in_a_thread(store.transaction()) as effect:
            desk.forget("loans", 1, effect)

    ended = completed(desk, store, world, made.AUROC_PASSED, REVIEW, begun=forget)
    assert not [event for event in published(store) if isinstance(event, ReviewRequested)]
    with in_a_thread(store.snapshot()) as session:
        assert session.scalar(select(ReviewRow)) is None
    late = made.registered(world.keys, made.version("sha256:" + "f" * 64, world.keys))
    with in_a_thread(store.transaction()) as effect:
        assert desk.begin(late, effect) is None
    assert [audit.digest for audit in audits(store)] == [ended.digest]
    anew = late.version.model_copy(update={"pipeline_number": 2})
    assert (desk.gone(late.version), desk.gone(anew)) == (True, False)


async def test_versions_are_found_by_a_prefix_that_is_not_ambiguous(
    world: World, store: Store, desk: Desk
) -> None:
    for digest in ("sha256:abcd1" + "0" * 59, "sha256:abcd2" + "0" * 59):
        completed(desk, store, world, made.AUROC_PASSED, version=made.version(digest, world.keys))
    async with serving(desk, store, world) as stub:
        assert (await stub.GetAudit(pb.GetAuditRequest(version="abcd1"))).digest.startswith("sha256:abcd1")
        assert "more than one version" in str(
            await refused(stub.GetAudit(pb.GetAuditRequest(version="abcd")))
        )
        assert isinstance(await refused(stub.GetAudit(pb.GetAuditRequest(version="ffff"))), NotFound)
        assert isinstance(await refused(stub.GetAudit(pb.GetAuditRequest(version="other@abcd1"))), NotFound)
        assert isinstance(await refused(stub.GetAudit(pb.GetAuditRequest(version="not a digest"))), Invalid)


async def test_a_running_audit_has_no_report_yet_and_says_so(world: World, store: Store, desk: Desk) -> None:
    begin(desk, store, made.registered(world.keys, made.version("sha256:" + "c" * 64, world.keys)))
    async with serving(desk, store, world) as stub:
        assert (await stub.GetAudit(pb.GetAuditRequest(version="cccc"))).state == pb.Audit.STATE_RUNNING
        fetching = stub.FetchReport(pb.FetchReportRequest(version="cccc"))
        assert "still running" in str(await refused(fetching.read()))
        fetching = stub.FetchReport(pb.FetchReportRequest(version="cccc", format="pdf"))
        assert isinstance(await refused(fetching.read()), Invalid)


def test_migrations_make_the_tables(store: Store) -> None:
    assert_migrations_match(store, Tables.metadata)


# -- with Kafka ------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_from_topic_to_topic_though_the_job_is_killed(world: World, kafka: Any) -> None:
    """The service as the stack starts it: a version in twice, its job killed, one signed verdict
    out, and a clean end.
    """
    settings: KafkaSettings = kafka.settings(f"ethics-{uuid.uuid4().hex[:8]}.")
    ensure_topics(
        settings,
        [
            topic
            for topic in SHARED
            if topic.name in ("pipelines.v1", "model-versions.v1", "audits.v1", "reviews.v1")
        ],
    )
    registered = world.registered(rows=600)
    (port,) = free_ports(1)
    environment = {
        "PENSTOCK_HOME": str(world.folder),
        "PENSTOCK_ARTIFACTS": world.artifacts.root,
        "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "PENSTOCK_KAFKA__TOPIC_PREFIX": settings.topic_prefix,
        "PENSTOCK_ETHICS_AUDIT__PORT": str(port),
    }
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for event_id, event in (("E0", file(world, 2)), ("E1", registered), ("E1", registered)):
        headers = headers_of(
            event_id=event_id,
            source="/test",
            event_type=event.ce_type(),
            time=made.NOW,
            subject=event.key,
            traceparent=None,
        )
        producer.produce(settings.topic(event.topic), encode(event), key=event.key, headers=headers)
        assert producer.flush(10) == 0
    with (world.folder / "service.log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "penstock_ethics_audit"],
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([settings.topic("audits.v1")])
    try:
        seen: list[Event] = []

        def ended() -> bool:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                event = decode(dict(message.headers())["ce_type"].decode(), message.value())
                seen.extend([event] if event else [])
            return any(isinstance(event, AuditCompleted | AuditFailed) for event in seen)

        running = partial(job_of, service.pid, "penstock_ethics_audit.job")
        child = wait_until(running, within=120, what="the job's process runs")
        child.send_signal(signal.SIGKILL)
        wait_until(ended, within=240, what="the audit's end is published")
        assert [type(event) for event in seen] == [AuditStarted, AuditCompleted]
        done = seen[1]
        assert isinstance(done, AuditCompleted)
        assert dsse.verify(done.evidence, world.keys.trust(), Verdict).digest == registered.version.digest
        heavy = [
            name
            for name in ("sklearn", "onnxruntime", "matplotlib", "pyarrow", "pandas")
            if f"/{name}/" in mapped(service.pid)
        ]
        assert heavy == []  # the idle service stays small; only its jobs load these
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
    finally:
        consumer.close()
        if service.poll() is None:
            service.kill()
            service.wait()
