"""From a finished run to a promoted version and back, on real packages and signatures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.contracts.errors import Conflict, Invalid, NotFound, Refused, Tampered, Unavailable
from penstock.contracts.events import AuditFailed, ModelVersionRefused, ModelVersionRegistered
from penstock.contracts.load import read_data
from penstock.contracts.pipeline import Pipeline
from penstock.packages import facts
from penstock.packages.evidence import Known, admissible
from penstock.runtime.store import assert_migrations_match
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.packages import gate
from penstock.testing.threads import in_a_thread
from penstock_model_registry import readings
from penstock_model_registry import store as rows
from penstock_model_registry.cases import promote
from penstock_model_registry.store import Tables

if TYPE_CHECKING:
    from conftest import World

GOOD = sample.AUROC_PASSED


def test_the_migrations_make_the_tables(world: World) -> None:
    assert_migrations_match(world.store, Tables.metadata)


# -- registering -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("artifacts_root")
async def test_a_finished_run_becomes_a_signed_version(world: World) -> None:
    run = world.run()
    await world.receives(run)
    [registered] = world.published()
    assert isinstance(registered, ModelVersionRegistered)
    version = registered.version
    assert (version.digest, version.run_id, version.training_set) == (run.digest, "R1", run.training_set)
    assert world.packages.verify(version) == run.digest
    assert world.state(run.digest) == ("registered", [])


async def test_the_same_run_announced_again_registers_once(world: World) -> None:
    run = world.run()
    await world.receives(run, "a")
    await world.receives(run, "a")
    [registered] = world.published()
    assert isinstance(registered, ModelVersionRegistered)
    await world.receives(run, "b")
    assert world.published() == [registered]
    assert world.packages.verify(registered.version) == run.digest, (
        "the signature that was announced is still there"
    )


@pytest.mark.usefixtures("artifacts_root")
async def test_a_broken_package_is_refused_where_people_look(world: World) -> None:
    run = world.run()
    whole = world.artifacts.read(run.package)
    world.artifacts.replace(run.package, whole.replace(b"no real graph", b"an evil graph"))
    await world.receives(run)
    assert world.published() == []
    state, because = world.state(run.digest)
    assert state == "refused"
    assert "the package is not accepted" in because[0]
    with pytest.raises(Refused, match="was not accepted"):
        await world.registry.promote(run.digest, by="Ada")
    world.artifacts.replace(run.package, whole)
    await world.receives(run)
    assert world.state(run.digest) == ("registered", []), "announced again with the right bytes, it is taken"


async def test_a_package_rebuilt_around_other_content_is_refused(world: World) -> None:
    honest, evil = world.run(), world.run(card="# evil\n")
    await world.receives(world.signs(honest, package=evil.package))
    assert "this is package" in world.state(honest.digest)[1][0]


@pytest.mark.usefixtures("artifacts_root")
async def test_a_package_that_is_gone_is_refused_and_an_absent_store_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = world.run()
    world.artifacts.delete(f"packages/{gone.digest[7:]}.tar")
    await world.receives(gone)
    assert "the artifact is gone" in world.state(gone.digest)[1][0]
    run = world.run(card="# two\n")
    (world.keys.directory / "registry.pem").rename(world.keys.directory / "away")
    with pytest.raises(Unavailable, match="no key of role registry"):
        await world.receives(run, "x")
    (world.keys.directory / "away").rename(world.keys.directory / "registry.pem")
    await world.receives(run, "x")
    assert world.state(run.digest)[0] == "registered"


async def test_a_run_cannot_soften_the_audit(world: World) -> None:
    run = world.run()
    world.applies(lending.PIPELINE_TEXT.replace("at_least: 0.7", "at_least: 0.8"), number=2)
    await world.receives(world.signs(run, pipeline_number=2))
    assert "another `audit` than pipeline number 2" in world.state(run.digest)[1][0]


async def test_a_run_of_an_unknown_pipeline_is_no_version(world: World) -> None:
    with pytest.raises(NotFound, match="no pipeline `savings`"):
        await world.receives(world.signs(world.run(), pipeline="savings"))


# -- evidence --------------------------------------------------------------------------------------


async def test_a_pass_promotes_by_itself_and_who_serves_can_verify_it(world: World) -> None:
    digest = await world.promotes("one")
    assert world.state(digest) == ("promoted", [])
    [promoted] = world.promotions()
    assert (promoted.generation, promoted.reason, promoted.promoted_by) == (1, "promoted", "penstock")
    assert admissible(promoted, world.keys.trust(), world.packages.verify(promoted.version)) == []


@pytest.mark.parametrize("allowed", [False, True])
async def test_without_gates_a_version_serves_where_its_file_allows_it(world: World, allowed: bool) -> None:
    text = lending.PIPELINE_TEXT[: lending.PIPELINE_TEXT.index("  gates:")] + "defaults: 2\n"
    text += "promotion: {without_gates: allowed}\n" if allowed else ""
    world.applies(text, number=2)
    run = world.run(number=2, pipeline=Pipeline.model_validate(read_data(text)))
    await world.receives(run)
    await world.receives(world.audit(run.digest, judged=False))
    state, because = world.state(run.digest)
    assert state == ("promoted" if allowed else "refused")
    assert [reason.partition(":")[0] for reason in because] == ([] if allowed else ["nothing was judged"])


async def test_a_blocking_fail_is_refused_with_its_reason(world: World) -> None:
    run = world.run()
    await world.receives(run)
    await world.receives(world.audit(run.digest, GOOD, gate("fail", on_fail="block")))
    state, because = world.state(run.digest)
    assert state == "refused"
    refused = world.published()[-1]
    assert isinstance(refused, ModelVersionRefused)
    assert (
        list(refused.because)
        == because
        == ["equalized_odds_difference by sex at_most 0.15: fail, said in a test"]
    )


@pytest.mark.parametrize("found", ["fail", "inconclusive"])
async def test_what_may_be_waived_waits_for_a_person(world: World, found: str) -> None:
    run = world.run()
    await world.receives(run)
    await world.receives(world.audit(run.digest, GOOD, gate(found)))
    state, because = world.state(run.digest)
    assert state == "refused"
    assert because[0].startswith("equalized_odds_difference by sex at_most 0.15")
    assert because[-1] == "waits for a review"
    told = await asyncio.to_thread(readings.facts, world.store)
    assert told["versions"] == "1 version, 1 waiting for a review"
    assert isinstance(world.published()[-1], ModelVersionRefused)
    with pytest.raises(Refused, match="penstock review approve"):
        await world.registry.promote(run.digest, by="Ada")
    await world.receives(world.review(run.digest, sample.waiver(world.keys, run.digest, gate(found))))
    [promoted] = world.promotions()
    assert promoted.promoted_by == "Ada"
    assert len(promoted.evidence) == 2
    assert admissible(promoted, world.keys.trust(), run.digest) == []


async def test_a_rejected_review_refuses(world: World) -> None:
    run = world.run()
    await world.receives(run)
    await world.receives(world.audit(run.digest, GOOD, gate("fail")))
    await world.receives(world.review(run.digest, None))
    assert world.state(run.digest)[0] == "refused"
    assert world.state(run.digest)[1][0] == "Ada rejected the review: so"
    with pytest.raises(Refused, match="rejected the review"):
        await world.registry.promote(run.digest, by="Bob")


async def test_forged_evidence_is_no_evidence(world: World, tmp_path: Path) -> None:
    run, other = world.run(), world.run(card="# other\n")
    await world.receives(run)
    await world.receives(other)
    honest = world.audit(run.digest)
    failed = world.audit(run.digest, GOOD, gate("fail", on_fail="block"))
    stranger = type(world.keys)(tmp_path / "stranger")
    stranger.ensure()
    for forged in (
        failed.model_copy(update={"verdict": "pass"}),
        failed.model_copy(update={"verdict": "pass", "gates": honest.gates}),
        honest.model_copy(update={"evidence": sample.verdict(stranger, run.digest, *honest.gates)}),
        honest.model_copy(update={"evidence": world.audit(other.digest).evidence}),
        honest.model_copy(update={"evidence": sample.waiver(world.keys, run.digest, gate())}),
    ):
        with pytest.raises(Tampered):
            await world.receives(forged)
    assert world.promotions() == []
    await world.receives(failed)
    for waiver in (
        sample.waiver(stranger, run.digest, gate("fail")),
        sample.waiver(world.keys, other.digest, gate("fail")),
        failed.evidence,
    ):
        with pytest.raises(Tampered):
            await world.receives(world.review(run.digest, waiver))
    await world.receives(world.review(run.digest, sample.waiver(world.keys, run.digest, gate("fail"))))
    assert world.promotions() == [], "the gate blocks, whoever waives it"


async def test_a_verdict_that_skips_a_gate_does_not_open(world: World) -> None:
    run = world.run()
    await world.receives(run)
    await world.receives(world.audit(run.digest, GOOD))
    assert world.state(run.digest) == (
        "refused",
        [
            "equalized_odds_difference by sex at_most 0.15: the pipeline asks for this gate and the audit did"
            " not judge it"
        ],
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
async def test_what_waited_in_three_topics_may_come_in_any_order(
    world: World, order: tuple[int, ...]
) -> None:
    """What is early raises Unavailable, and so comes again; nothing of it becomes a dead letter."""
    run, failed = world.run(), gate("fail")
    waiting = [
        run,
        world.audit(run.digest, GOOD, failed),
        world.review(run.digest, sample.waiver(world.keys, run.digest, failed)),
    ]
    for event in [waiting[place] for place in order] * 3:
        with contextlib.suppress(Unavailable):
            await world.receives(event)
    [promoted] = world.promotions()
    assert (promoted.version.digest, promoted.promoted_by) == (run.digest, "Ada")


async def test_what_is_forged_is_refused_before_its_version_is_waited_for(
    world: World, tmp_path: Path
) -> None:
    run = world.run()  # never comes in
    stranger = type(world.keys)(tmp_path / "stranger")
    stranger.ensure()
    forged = sample.verdict(stranger, run.digest, GOOD)
    with pytest.raises(Tampered):
        await world.receives(world.audit(run.digest, GOOD).model_copy(update={"evidence": forged}))
    with pytest.raises(Tampered):
        await world.receives(world.review(run.digest, sample.waiver(stranger, run.digest, gate("fail"))))


async def test_a_failed_audit_waits_for_its_version(world: World) -> None:
    run = world.run()
    failed = AuditFailed(
        audit_id="A1",
        pipeline="loans",
        digest=run.digest,
        reason="the split is gone",
        remedy="Train again",
        failed_at=sample.NOW,
    )
    failed = facts.signed(failed, world.keys.signer("audit"))
    with pytest.raises(Unavailable, match="has not come in yet"):
        await world.receives(failed)
    await world.receives(run)
    await world.receives(failed)
    assert world.state(run.digest) == (
        "registered",
        ["the audit could not be carried out: the split is gone. Train again"],
    )


async def test_a_review_that_overtakes_its_audit_waits_and_one_of_an_older_audit_is_ignored(
    world: World,
) -> None:
    run = world.run()
    await world.receives(run)
    review = world.review(
        run.digest, sample.waiver(world.keys, run.digest, gate("fail"), audit_id="A2"), audit_id="A2"
    )
    with pytest.raises(Unavailable, match="has not come in yet"):
        await world.receives(review)
    await world.receives(world.audit(run.digest, GOOD, gate("fail"), audit_id="A1"))
    with pytest.raises(Unavailable, match="has not come in yet"):
        await world.receives(review)
    await world.receives(world.audit(run.digest, GOOD, gate("fail"), audit_id="A3"))
    await world.receives(review)
    await world.receives(world.audit(run.digest, audit_id="A2"))
    assert world.promotions() == []


@pytest.mark.usefixtures("artifacts_root")
async def test_a_package_changed_after_it_was_registered_is_not_promoted(world: World) -> None:
    run = world.run()
    await world.receives(run)
    world.artifacts.replace(run.package, b"something else")
    await world.receives(world.audit(run.digest))
    state, because = world.state(run.digest)
    assert state == "refused"
    assert "expected sha256" in because[0]


async def test_an_audit_that_could_not_be_carried_out_is_said(world: World) -> None:
    run = world.run()
    await world.receives(run)
    failed = AuditFailed(
        audit_id="A1",
        pipeline="loans",
        digest=run.digest,
        reason="no rows",
        remedy="Publish more",
        failed_at=sample.NOW,
    )
    failed = facts.signed(failed, world.keys.signer("audit"))
    await world.receives(failed)
    assert world.state(run.digest) == (
        "registered",
        ["the audit could not be carried out: no rows. Publish more"],
    )
    with pytest.raises(Conflict, match="has not been audited yet"):
        await world.registry.promote(run.digest, by="Ada")


# -- champion and challenger -----------------------------------------------------------------------


async def challenge(world: World, quality: float, **scores: object) -> str:
    await world.promotes("champion")
    run = world.run(card="# challenger\n", run_id="R2")
    await world.receives(run)
    await world.receives(
        world.audit(run.digest, scores=world.scores("challenger", quality) if not scores else None)
    )
    return run.digest


@pytest.mark.usefixtures("artifacts_root")
async def test_a_better_challenger_takes_over(world: World) -> None:
    digest = await challenge(world, 2.5)
    state, [because] = world.state(digest)
    assert state == "promoted"
    assert because.startswith("against the champion auroc is 0."), "as a refusal says it"
    assert "better, at worst" in because
    assert [event.generation for event in world.promotions()] == [1, 2]
    assert world.state(world.promotions()[0].version.digest)[0] == "retired"


async def test_a_worse_challenger_is_refused_until_the_policy_says_otherwise(world: World) -> None:
    digest = await challenge(world, 1.0)
    state, because = world.state(digest)
    assert state == "refused"
    assert because[0].startswith("against the champion auroc is 0.")
    refusals = len(world.published(ModelVersionRefused))
    with pytest.raises(Refused, match="against the champion"):
        await world.registry.promote(digest, by="Ada")
    assert len(world.published(ModelVersionRefused)) == refusals, "the same refusal is not announced twice"
    world.applies(lending.PIPELINE_TEXT + "promotion: {compare: none}\n", number=2)
    await world.registry.promote(digest, by="Ada")
    assert world.promotions()[-1].promoted_by == "Ada"


async def test_scores_that_the_audit_did_not_sign_are_not_compared(world: World) -> None:
    await world.promotes("champion")
    run = world.run(card="# challenger\n", run_id="R2")
    await world.receives(run)
    honest = world.audit(run.digest, scores=world.scores("honest", 1.0))
    await world.receives(honest.model_copy(update={"scores": world.scores("forged", 9.0)}))
    assert "the challenger's scores are not those that its audit signed" in world.state(run.digest)[1][0]
    other = world.artifacts.put_bytes("audits/other.json", b"{}")
    with pytest.raises(Tampered, match="not the one that its verdict was signed for"):
        await world.receives(world.audit(run.digest, audit_id="A2").model_copy(update={"result": other}))


async def test_without_scores_nobody_is_compared_and_it_is_said(world: World) -> None:
    digest = await challenge(world, 0, none=True)
    assert "the challenger's audit kept no scores" in world.state(digest)[1][0]


async def test_promoting_the_champion_changes_nothing(world: World) -> None:
    digest = await world.promotes("one")
    assert await world.registry.promote(digest, by="Ada") == digest
    await world.receives(world.audit(digest, audit_id="A2"))
    assert len(world.promotions()) == 1


async def test_a_later_bad_audit_does_not_take_the_champion_away(world: World) -> None:
    digest = await world.promotes("one")
    await world.receives(world.audit(digest, gate("fail", on_fail="block"), GOOD, audit_id="A2"))
    state, because = world.state(digest)
    assert state == "promoted"
    assert because != []
    assert world.published(ModelVersionRefused) == []


# -- rolling back ----------------------------------------------------------------------------------


async def test_rolling_back_is_a_new_signed_generation_of_the_version_before(world: World) -> None:
    first = await world.promotes("one")
    second = await world.promotes("two", audit_id="A2")
    assert await world.registry.roll_back("loans", by="Ada") == first
    one, two, back = world.promotions()
    assert (back.generation, back.reason, back.promoted_by, back.version.digest) == (
        3,
        "rolled_back",
        "Ada",
        first,
    )
    trust = world.keys.trust()
    assert admissible(back, trust, first, Known(2, second)) == []
    assert admissible(one, trust, first, Known(2, second)) != [], (
        "the old promotion itself cannot be replayed"
    )
    assert admissible(two, trust, second, Known(3, first)) != []
    assert world.state(first)[0] == "promoted"
    assert world.state(second)[0] == "retired"
    with pytest.raises(Conflict, match="was promoted before"):
        await world.registry.roll_back("loans", by="Ada")
    third = await world.promotes("three", audit_id="A3")
    assert world.promotions()[-1].generation == 4
    assert await world.registry.roll_back("loans", by="Ada") == first != third


@pytest.mark.parametrize("audit_id", ["A2", "A3"], ids=["read again", "made anew"])
async def test_what_a_person_rolled_back_from_no_verdict_brings_back(world: World, audit_id: str) -> None:
    world.applies(lending.PIPELINE_TEXT + "promotion: {compare: none}\n", number=2)
    first = await world.promotes("one")
    second = await world.promotes("two", audit_id="A2")
    await world.registry.roll_back("loans", by="Ada")
    await world.receives(world.audit(second, audit_id=audit_id), "its inbox row is gone")
    assert (world.state(first)[0], world.state(second)[0]) == ("promoted", "retired")
    assert len(world.promotions()) == 3
    assert await world.registry.promote(second, by="Ada") == second, "a person does"


async def test_a_review_that_is_read_again_undoes_no_rollback(world: World) -> None:
    world.applies(lending.PIPELINE_TEXT + "promotion: {compare: none}\n", number=2)
    first = await world.promotes("one")
    run = world.run(card="# two\n", run_id="R2")
    await world.receives(run)
    await world.receives(world.audit(run.digest, GOOD, gate("fail")))
    review = world.review(run.digest, sample.waiver(world.keys, run.digest, gate("fail")))
    await world.receives(review)
    assert world.state(run.digest)[0] == "promoted"
    await world.registry.roll_back("loans", by="Ada")
    await world.receives(review, "its inbox row is gone")
    assert (world.state(first)[0], world.state(run.digest)[0]) == ("promoted", "retired")


async def test_rolling_back_again_after_a_lost_answer_changes_nothing(world: World) -> None:
    first = await world.promotes("one")
    await world.promotes("two", audit_id="A2")
    await world.promotes("three", audit_id="A3")
    back = await world.registry.roll_back("loans", by="Ada", from_generation=3)
    assert await world.registry.roll_back("loans", by="Ada", from_generation=3) == back != first
    assert [one.generation for one in world.promotions()] == [1, 2, 3, 4]
    with pytest.raises(Conflict, match="has left generation 1"):
        await world.registry.roll_back("loans", by="Ada", from_generation=1)


async def test_rolling_back_needs_something_to_go_back_to(world: World) -> None:
    with pytest.raises(NotFound, match="no pipeline `other`"):
        await world.registry.roll_back("other", by="Ada")
    with pytest.raises(Conflict, match="no version is promoted"):
        await world.registry.roll_back("loans", by="Ada")


async def test_rolling_back_to_a_version_whose_evidence_no_longer_holds_is_refused(world: World) -> None:
    await world.promotes("one")
    await world.promotes("two", audit_id="A2")
    world.keys.rotate("registry", revoke=True)
    with pytest.raises(Refused, match="not in the trust store"):
        await world.registry.roll_back("loans", by="Ada")
    assert len(world.promotions()) == 2


async def test_after_a_rotation_everything_goes_on(world: World) -> None:
    first = await world.promotes("one")
    world.keys.rotate("registry")
    second = await world.promotes("two", audit_id="A2")
    assert await world.registry.roll_back("loans", by="Ada") == first != second
    back = world.promotions()[-1]
    assert back.promotion.signatures[0].keyid == world.keys.signer("registry").keyid
    assert admissible(back, world.keys.trust(), first) == []


# -- whatever happens ------------------------------------------------------------------------------


async def test_a_restart_forgets_nothing(world: World) -> None:
    run = world.run()
    await world.receives(run, "a")
    world.store.close()
    world.start()
    await world.receives(run, "a")
    await world.receives(world.audit(run.digest))
    world.store.close()
    world.start()
    assert world.state(run.digest)[0] == "promoted"
    assert len(world.published()) == 2


async def test_what_changed_while_it_was_judged_is_judged_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas decide at once: the generation is given once."""
    first = await world.promotes("one")
    run = world.run(card="# two\n")
    await world.receives(run)
    judge = world.registry._judge

    def slowly(case, by, reason="promoted"):  # type: ignore[no-untyped-def]
        judged = judge(case, by, reason)
        if len(world.promotions()) < 2:
            with in_a_thread(world.store.transaction()) as effect:  # another replica is faster
                row = effect.session.get(rows.VersionRow, first)
                assert row is not None
                event = world.promotions()[0].model_copy(update={"generation": 2})
                promote(effect, row, case, event)
        return judged

    monkeypatch.setattr(world.registry, "_judge", slowly)
    audit = world.audit(run.digest, scores=world.scores("two", 2.0))
    with pytest.raises(Unavailable, match="changed meanwhile"):
        await world.receives(audit, "x")
    await world.receives(audit, "x")
    assert [event.generation for event in world.promotions()] == [1, 2, 3]


async def test_a_version_is_found_by_prefix_or_not_at_all(world: World) -> None:
    digest = (await world.promotes("one"))[7:]
    wrong = {
        "": Invalid,
        "abc": Invalid,
        "loans": Invalid,
        "sha256:zz": Invalid,
        "ffffffff": NotFound,
        f"other@{digest[:8]}": NotFound,
    }
    with in_a_thread(world.store.snapshot()) as session:
        for good in (
            digest,
            digest[:4],
            f"sha256:{digest}",
            f"loans@{digest[:8]}",
            f" loans@sha256:{digest[:8]} ",
        ):
            assert rows.find_version(session, good).digest == f"sha256:{digest}"
        for reference, error in wrong.items():
            with pytest.raises(error):
                rows.find_version(session, reference)


async def test_an_ambiguous_prefix_lists_what_it_could_mean(world: World) -> None:
    with in_a_thread(world.store.transaction()) as effect:
        for tail in ("1", "2"):
            digest = "sha256:" + "a" * 63 + tail
            version = sample.version(digest, world.keys)
            effect.session.add(
                rows.VersionRow(
                    digest=digest,
                    pipeline="loans",
                    run_id="R",
                    state="registered",
                    version=version,
                    registered_at=sample.NOW,
                )
            )
    with (
        in_a_thread(world.store.snapshot()) as session,
        pytest.raises(Invalid, match="more than one version begins so"),
    ):
        rows.find_version(session, "aaaa")
