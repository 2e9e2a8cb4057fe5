"""A registry whose database is lost goes on where it was, from its own compacted topics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from penstock.contracts.errors import Conflict
from penstock.contracts.events import Event, ModelVersionPromoted, PipelineApplied, encode
from penstock.contracts.topics import SHARED
from penstock.packages.evidence import Known, admissible
from penstock.runtime.cloud_events import Received
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.history import left_out, restored
from penstock.testing.threads import in_a_thread
from penstock_model_registry.history import History
from penstock_model_registry.store import PipelineRow, PromotionRow, VersionRow

if TYPE_CHECKING:
    from conftest import World

TEXT = lending.PIPELINE_TEXT + "promotion: {compare: none}\n"


def applied(world: World) -> PipelineApplied:
    return sample.applied(world.keys, TEXT, 7)


async def lose_the_database(world: World, announced: list[Event]) -> None:
    """What compaction leaves of the topics is all that there is."""
    world.lose_database()
    compacted = {topic.name for topic in SHARED if topic.cleanup == "compact"}
    kept = {
        (event.topic, event.key if event.topic in compacted else number): event
        for number, event in enumerate(announced)
    }
    await restored(History(world.store, world.keys), kept.values())


async def test_numbers_and_generations_go_on_rising(world: World) -> None:
    first = await world.promotes("one")
    second = await world.promotes("two", audit_id="A2")
    bad = world.run(card="# bad\n", run_id="R3")
    await world.receives(bad)
    await world.receives(world.audit(bad.digest, sample.AUROC_PASSED, sample.gate("fail", on_fail="block")))
    champion = world.promotions()[-1]
    await lose_the_database(world, [applied(world), *world.published()])

    assert [world.state(digest)[0] for digest in (first, second, bad.digest)] == [
        "registered",
        "promoted",
        "refused",
    ]
    assert world.state(bad.digest)[1] == [
        "equalized_odds_difference by sex at_most 0.15: fail, said in a test"
    ]
    with pytest.raises(Conflict, match="was promoted before"):
        await world.registry.roll_back("loans", by="Ada")
    run = world.signs(world.run(card="# three\n"), pipeline_number=7)
    await world.receives(run, "three")
    await world.receives(world.audit(run.digest, audit_id="A4"), "audit-three")
    [promoted] = world.promotions()
    assert promoted.generation == 3
    assert admissible(promoted, world.keys.trust(), run.digest, Known(champion.generation, second)) == []


async def test_verdicts_that_are_read_again_undo_no_rollback(world: World) -> None:
    """Its topics from the beginning, positions gone with everything else."""
    world.applies(TEXT, number=2)
    first = await world.promotes("one")
    second = await world.promotes("two", audit_id="A2")
    await world.registry.roll_back("loans", by="Ada")
    verdicts: list[Event] = [world.audit(first), world.audit(second, audit_id="A2")]
    await lose_the_database(world, [applied(world), *world.published(), *verdicts])
    for number, verdict in enumerate(verdicts):
        await world.receives(verdict, f"again-{number}")
    assert (world.state(first)[0], world.state(second)[0]) == ("promoted", "registered")
    assert world.promotions() == []
    assert await world.registry.promote(second, by="Ada") == second, (
        "its evidence is there for a person who asks"
    )
    assert world.promotions()[-1].generation == 4


async def test_reviews_that_are_read_again_undo_no_rollback(world: World) -> None:
    world.applies(TEXT, number=2)
    first = await world.promotes("one")
    run = world.run(card="# two\n", run_id="R2")
    audit = world.audit(run.digest, sample.AUROC_PASSED, sample.gate("fail"))
    review = world.review(run.digest, sample.waiver(world.keys, run.digest, sample.gate("fail")))
    for event in (run, audit, review):
        await world.receives(event)
    assert world.state(run.digest)[0] == "promoted"
    await world.registry.roll_back("loans", by="Ada")
    await lose_the_database(world, [applied(world), *world.published(), world.audit(first), audit, review])
    await world.receives(audit, "again")
    await world.receives(review, "again, too")
    assert world.state(first)[0] == "promoted"
    assert world.promotions() == []
    assert await world.registry.promote(run.digest, by="Ada") == run.digest, "the waiver came back, too"


async def test_a_verdict_after_the_promotion_that_stands_is_decided_on(world: World) -> None:
    """Its version was there before."""
    early = world.run(card="# early\n", run_id="R0")
    await world.receives(early)
    await world.promotes("one")
    late = world.audit(early.digest, audit_id="A2").model_copy(
        update={"completed_at": datetime.now(UTC) + timedelta(days=9999)}
    )
    await lose_the_database(world, [applied(world), *world.published(), late])
    await world.receives(late, "read at last")
    assert world.state(early.digest)[0] == "promoted"


async def test_a_forged_verdict_hides_no_honest_one(world: World) -> None:
    first = await world.promotes("one")
    honest = world.audit(first)
    forged = honest.model_copy(update={"audit_id": "Z9", "result": honest.report})
    await lose_the_database(world, [applied(world), *world.published(), honest, forged])
    with in_a_thread(world.store.snapshot()) as session:
        kept = session.get_one(VersionRow, first).audit
    assert kept == honest


async def test_a_verdict_that_came_after_the_loss_is_decided_on(world: World) -> None:
    first = world.run(card="# one\n")
    await world.receives(first)
    await lose_the_database(world, [applied(world), *world.published(), world.audit(first.digest)])
    await world.receives(world.audit(first.digest), "late")
    assert world.state(first.digest)[0] == "promoted"


async def test_a_run_by_a_file_that_went_with_the_database_is_a_version(world: World) -> None:
    await lose_the_database(world, [applied(world)])
    run = world.run(card="# one\n")
    assert run.pipeline_number < applied(world).number
    await world.receives(run)
    assert world.state(run.digest)[0] == "registered"


async def test_older_ones_that_are_published_again_are_no_newer_ones(world: World) -> None:
    await world.promotes("one")
    second = await world.promotes("two", audit_id="A2")
    announced, old = world.published(), world.promotions()[0]
    world.lose_database()
    files = [applied(world), sample.applied(world.keys, number=3)]
    await restored(History(world.store, world.keys), [*files, *announced, old])
    with in_a_thread(world.store.snapshot()) as session:
        assert session.scalars(select(PipelineRow.number)).all() == [7]
        assert session.scalars(select(PromotionRow.generation)).all() == [2]
    assert world.state(second)[0] == "promoted"


async def test_what_came_after_the_newest_is_not_what_stays(world: World) -> None:
    """Compaction keeps the last of a key: an old one once more, or a forged one."""
    await world.promotes("one")
    await world.promotes("two", audit_id="A2")
    world.applies(TEXT, number=2)
    old, newest = world.promotions()
    with in_a_thread(world.store.snapshot()) as session:
        file = session.get_one(PipelineRow, ("loans", 2)).applied
    for event in (newest, file):
        await world.receives(event)
    assert world.promotions() == [old, newest]
    for event in (old, newest.model_copy(update={"promoted_by": "Mallory"}), sample.applied(world.keys)):
        await world.receives(event)
    assert world.promotions()[2:] == [newest, newest]
    assert world.published(PipelineApplied) == [file]
    for event in (newest, file):
        await world.receives(event)
    assert (len(world.promotions()), len(world.published(PipelineApplied))) == (4, 1)


async def test_a_forged_promotion_is_no_history(world: World) -> None:
    await world.promotes("one")
    [honest] = world.promotions()
    forged = honest.model_copy(update={"generation": 9})
    await lose_the_database(world, [applied(world), *world.published(), forged])
    assert world.state(honest.version.digest)[0] == "registered"
    assert not any(isinstance(event, ModelVersionPromoted) for event in world.published())


async def test_a_database_that_holds_anything_is_left_alone(world: World) -> None:
    history = History(world.store, world.keys)
    await history.look()
    assert history.router is None
    await history.restore()


async def test_of_two_replicas_that_find_the_database_empty_one_restores_it(world: World) -> None:
    world.lose_database()
    histories = [History(world.store, world.keys) for _ in range(2)]
    for history in histories:
        await history.look()
    event = applied(world)
    for history in histories:
        assert history.router is not None
        received = Received(event.topic, 0, 0, "e", event.ce_type(), {}, encode(event))
        await history.router.replay(received, left_out)
        for topic in history.router.replayed_topics:
            history.router.mark_caught_up(topic)
        await history.restore()
    with in_a_thread(world.store.snapshot()) as session:
        assert session.scalars(select(PipelineRow.number)).all() == [7]


async def test_a_first_start_has_no_history(world: World) -> None:
    await lose_the_database(world, [])
    world.applies()
    digest = await world.promotes("one")
    assert world.promotions()[0].generation == 1
    assert world.state(digest)[0] == "promoted"
