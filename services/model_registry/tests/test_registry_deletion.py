"""A pipeline that never served can be deleted, once; what comes late is none of the next one's."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import func, select

from penstock.contracts.errors import Conflict, NotFound, Refused, Unavailable
from penstock.contracts.events import AuditFailed, PipelineApplied, PipelineDeleted
from penstock.packages import facts
from penstock.runtime.kafka.admin import MadeTopic
from penstock.runtime.settings import KafkaSettings
from penstock.testing import packages as sample
from penstock.testing.history import restored
from penstock.testing.threads import in_a_thread
from penstock_model_registry import deletion
from penstock_model_registry.cases import Moved
from penstock_model_registry.deletion import Deletions
from penstock_model_registry.history import History
from penstock_model_registry.lease import TopicsLease
from penstock_model_registry.pipelines import Pipelines
from penstock_model_registry.store import DeletedRow, PipelineRow, VersionRow, deleted_up_to

if TYPE_CHECKING:
    from conftest import World

NOBODY = KafkaSettings(bootstrap_servers="127.0.0.1:1")


def deletions(world: World) -> Deletions:
    clock = partial(datetime.now, UTC)
    changing = TopicsLease(world.store, "0", clock)
    return Deletions(world.store, NOBODY, world.keys, world.artifacts, clock, changing)


async def delete(world: World, number: int = 1) -> PipelineDeleted:
    """As `Deletions.delete` does when it has asked Kafka for predictions."""
    await world.store.write(partial(deletion._write, sample.deleted(world.keys, number=number)))
    [event] = world.published(PipelineDeleted)
    assert isinstance(event, PipelineDeleted)
    return event


def count(world: World, row: type[PipelineRow | VersionRow | DeletedRow]) -> int:
    with in_a_thread(world.store.snapshot()) as session:
        return session.scalar(select(func.count()).select_from(row)) or 0


async def test_what_ever_served_stays(world: World) -> None:
    await world.promotes("one")
    with pytest.raises(Refused, match=r"loans: it stays: loans@\w{8} was promoted on 20"):
        await deletions(world).delete("loans", by="Ada")
    with pytest.raises(Refused):
        await delete(world)
    assert count(world, PipelineRow) == 1


async def test_nothing_is_deleted_while_nobody_can_say_whether_it_predicted(world: World) -> None:
    with pytest.raises(Unavailable):
        await deletions(world).delete("loans", by="Ada")
    with pytest.raises(NotFound, match="There is loans"):
        await deletions(world).delete("loan", by="Ada")
    assert count(world, PipelineRow) == 1


async def test_files_and_versions_go_and_the_fact_is_signed(world: World) -> None:
    run = world.run()
    await world.receives(run)
    event = await delete(world)
    facts.verify_fact(event, world.keys.trust())
    assert (count(world, PipelineRow), count(world, VersionRow), count(world, DeletedRow)) == (0, 0, 1)
    again = await deletions(world).delete("loans", by="Ada")
    assert (again.number, again.versions, again.topics) == (1, 0, ())
    with in_a_thread(world.store.snapshot()) as session:
        row = session.get_one(DeletedRow, "loans")
        assert run.package.uri in {artifact.uri for artifact in row.artifacts}
        assert "loans.predictions.v1" in row.topics


async def test_a_file_that_is_applied_meanwhile_is_not_deleted_unseen(world: World) -> None:
    world.applies(number=2)
    with pytest.raises(Conflict, match="applied meanwhile"):
        await delete(world, number=1)
    assert count(world, PipelineRow) == 2


class Topics:
    """Kafka's topics, as the deletion asks for them and has them removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: set[MadeTopic] = set()
        self.asked = lambda: None
        monkeypatch.setattr(deletion, "topics_made", self._made)
        monkeypatch.setattr(deletion, "remove_topics", lambda _, made: self.there.difference_update(made))

    def make(self, number: int) -> MadeTopic:
        made = ("loans.predictions.v1", UUID(int=number))
        self.there.add(made)
        return made

    def _made(self, _kafka: KafkaSettings, _topics: list[str]) -> frozenset[MadeTopic]:
        found = frozenset(self.there)
        self.asked()
        return found


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> Topics:
    return Topics(monkeypatch)


async def test_topics_that_come_back_go_and_those_of_another_replicas_apply_stay(
    world: World, topics: Topics
) -> None:
    await delete(world)
    seen: dict[str, frozenset[MadeTopic]] = {}
    topics.make(1)
    await deletions(world).clear_all(seen)
    anew = topics.make(2)
    await deletions(world).clear_all(seen)
    assert topics.there == {anew}, "it was not there the last time"
    world.applies(number=2)
    await deletions(world).clear_all(seen)
    assert topics.there == {anew}


async def test_what_is_applied_while_kafka_is_asked_keeps_its_topics(world: World, topics: Topics) -> None:
    await delete(world)
    anew = topics.make(1)
    topics.asked = lambda: world.applies(number=2)
    assert await deletions(world).clear("loans") == frozenset()
    assert topics.there == {anew}


async def test_packages_go_but_those_that_a_version_of_today_holds(world: World, topics: Topics) -> None:
    assert not topics.there
    gone, same = world.run(card="# gone\n"), world.run(card="# same\n", run_id="R2")
    for run in (gone, same):
        await world.receives(run)
    await delete(world)
    world.applies(number=2)
    again = world.signs(same, pipeline_number=2, run_id="R3")
    await world.receives(again)
    for _ in range(2):
        await deletions(world).clear("loans")
    with pytest.raises(NotFound):
        world.artifacts.read(gone.package)
    assert world.artifacts.read(same.package)


async def test_a_refused_run_that_names_a_folder_takes_nothing_with_it(world: World, topics: Topics) -> None:
    """What it names is looked at by nobody before the deletion."""
    assert not topics.there
    run = world.run()
    folder = run.package.model_copy(update={"uri": world.artifacts.uri("packages")})
    await world.receives(world.signs(run, package=folder))
    assert count(world, VersionRow) == 1
    await delete(world)
    other = world.artifacts.put_bytes("packages/of-another.tar", b"bytes")
    await deletions(world).clear("loans")
    assert world.artifacts.read(other) == b"bytes"


async def test_what_comes_after_the_deletion_is_ignored(world: World) -> None:
    """A run, an audit and a review that were under way; none holds up those behind it."""
    run, late = world.run(), world.run(card="# late\n", run_id="R2")
    await world.receives(run)
    await delete(world)
    failed = AuditFailed(
        audit_id="A9",
        pipeline="loans",
        digest=run.digest,
        reason="so",
        remedy="so",
        failed_at=sample.NOW,
    )
    await world.receives(world.audit(run.digest))
    await world.receives(world.review(run.digest, None))
    await world.receives(facts.signed(failed, world.keys.signer("audit")))
    world.applies(number=2)
    await world.receives(late)
    assert count(world, VersionRow) == 0
    await world.receives(world.signs(late, pipeline_number=2))
    assert count(world, VersionRow) == 1


async def test_what_is_under_way_while_it_is_deleted_brings_no_version_back(world: World) -> None:
    """A package that is being taken in, and a verdict that is being weighed."""
    run, late = world.run(), world.run(card="# late\n", run_id="R2")
    await world.receives(run)
    registered = await world.registry.register(late)
    decided = await world.registry.audited(world.audit(run.digest))
    assert registered
    assert decided
    await delete(world)
    await world.store.write(registered)
    with pytest.raises(Moved):  # and is ignored when it is read again
        await world.store.write(decided)
    assert count(world, VersionRow) == 0


async def test_the_last_fact_about_a_pipeline_stays_on_its_compacted_topic(world: World) -> None:
    applied = sample.applied(world.keys)
    deleted = await delete(world)
    await world.receives(applied)  # an old one once more
    assert world.published(PipelineDeleted) == [deleted, deleted]
    world.applies(number=2)
    await world.receives(deleted)
    [newest] = world.published()[2:]
    assert (type(newest).__name__, newest.number) == ("PipelineApplied", 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("anew", [False, True])
async def test_a_lost_database_brings_back_nothing_that_was_deleted(world: World, anew: bool) -> None:
    run = world.run()
    await world.receives(run)
    [registered] = world.published()
    world.lose_database()
    last = sample.applied(world.keys, number=2, deleted_before=1) if anew else sample.deleted(world.keys)
    await restored(History(world.store, world.keys), [last, registered])
    assert (count(world, PipelineRow), count(world, VersionRow)) == (int(anew), 0)
    await world.receives(run)  # once more
    await world.receives(world.audit(run.digest))
    assert count(world, VersionRow) == 0
    if anew:
        with in_a_thread(world.store.snapshot()) as session:
            assert deleted_up_to(session, "loans") == 1, "the next file says so too"


@pytest.mark.parametrize("anew", [False, True])
async def test_a_deletion_whose_key_was_revoked_is_stated_again(world: World, anew: bool) -> None:
    await delete(world)
    if anew:
        world.applies(number=2)
    world.keys.rotate("registry", revoke=True)
    pipelines = Pipelines(world.store, NOBODY, world.keys, deletions(world), lambda: sample.NOW)
    for _ in range(2):  # the second start has nothing to state
        await world.store.write(pipelines.state_again)
    with in_a_thread(world.store.snapshot()) as session:
        facts.verify_fact(session.get_one(DeletedRow, "loans").deleted, world.keys.trust())
    _, stated = world.published()
    assert isinstance(stated, PipelineApplied | PipelineDeleted)
    assert isinstance(stated, PipelineApplied) == anew
    facts.verify_fact(stated, world.keys.trust())
