"""State that is read from topics before a service decides or answers: the order of a start, and the
applied pipelines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.contracts.errors import NotFound, Tampered, Unavailable
from penstock.contracts.events import AuditStarted, PipelineApplied, PipelineDeleted, encode
from penstock.packages.keys import Keys
from penstock.runtime.cloud_events import Received
from penstock.runtime.database import DatabaseAway
from penstock.runtime.lifecycle import Service
from penstock.runtime.pipelines import Applied, AppliedPipelines
from penstock.runtime.readiness import Readiness
from penstock.runtime.restore import Phases, Restored
from penstock.runtime.router import Router
from penstock.runtime.settings import ServiceSettings
from penstock.testing import lending, packages
from penstock.testing.history import left_out, restored

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
TOPIC = PipelineApplied.topic


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys"))
    made.ensure()
    return made


Apply = Callable[..., PipelineApplied]


@pytest.fixture
def applied(keys: Keys) -> Apply:
    def signed(name: str, number: int = 1, **spec: object) -> PipelineApplied:
        return packages.applied(keys, number=number, spec=lending.spec(pipeline=name, **spec))

    return signed


class State(Restored):
    def __init__(self, name: str, log: list[str], *, away: int = 0, nothing: bool = False) -> None:
        self.name, self.log, self.away = name, log, away
        self.router = None if nothing else Router(name)
        if self.router is not None:
            self.router.on_replay(PipelineApplied)(lambda event: None)

    async def restore(self) -> None:
        if self.away:
            self.away -= 1
            raise DatabaseAway("it does not answer")
        self.log.append(self.name)


class Start:
    """A service's phases, and what they let begin."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.readiness = Readiness(lambda: NOON)
        self.phases = Phases(self.readiness, answer=lambda: self.log.append("answer"))

    def said(self) -> list[str]:
        """In order; calls may be let in more than once."""
        return list(dict.fromkeys(self.log))


async def test_all_is_restored_in_the_order_of_registration_and_then_the_rest_begins() -> None:
    start = Start()
    first, second = State("first", start.log), State("second", start.log)
    start.phases.add(first, before_calls=True)
    start.phases.add(second, before_calls=True)
    start.phases.begin()
    assert [(wait.thing, wait.why) for wait in start.readiness.waiting] == [
        ("start", "restores its state from pipelines.v1")
    ]
    running = asyncio.create_task(start.phases.run())
    begun = asyncio.create_task(start.phases.completed())
    assert second.router is not None
    assert first.router is not None
    second.router.mark_caught_up(TOPIC)
    await asyncio.sleep(0)  # the tasks run
    assert start.log == []
    first.router.mark_caught_up(TOPIC)
    await asyncio.wait_for(running, 5)
    await asyncio.wait_for(begun, 5)
    assert start.said() == ["first", "second", "answer"]
    assert start.readiness.ready


async def test_calls_do_not_wait_for_what_the_database_answers_from() -> None:
    start = Start()
    slow = State("slow", start.log)
    start.phases.add(slow, before_calls=False)
    start.phases.begin()
    assert start.log == ["answer"]
    begun = asyncio.create_task(start.phases.completed())
    await asyncio.sleep(0)  # the tasks run
    assert not begun.done(), "handlers and streams wait all the same"
    begun.cancel()


def test_where_nothing_has_to_be_read_everything_begins_at_once() -> None:
    start = Start()
    known = State("known", start.log, nothing=True)
    start.phases.add(known, before_calls=True)
    start.phases.begin()
    assert known.complete
    assert start.log == ["answer"]
    assert start.readiness.ready


async def test_a_database_that_goes_away_meanwhile_is_waited_for() -> None:
    start = Start()
    state = State("state", start.log, away=1)
    start.phases.add(state, before_calls=True)
    assert state.router is not None
    state.router.mark_caught_up(TOPIC)
    with pytest.raises(DatabaseAway):  # the service runs it again
        await start.phases.run()
    assert not state.complete
    await start.phases.run()
    assert start.said() == ["state", "answer"]


def test_a_replay_cannot_be_consumed_past_the_phases() -> None:
    router = Router("penstock.tally")
    router.on_replay(AuditStarted)(lambda event: None)
    with pytest.raises(ValueError, match=r"service\.restores"):
        Service("ingest", ServiceSettings()).consume(router)


# -- applied pipelines -----------------------------------------------------------------------------


async def tell(pipelines: AppliedPipelines, event: PipelineApplied | PipelineDeleted) -> None:
    assert pipelines.router is not None
    received = Received(TOPIC, 0, 0, "e", event.ce_type(), {}, encode(event))
    await pipelines.router.replay(received, left_out)


async def test_the_newest_number_of_each_pipeline_counts_and_is_told_with_the_one_before(
    keys: Keys, applied: Apply
) -> None:
    told: list[tuple[str, int, int | None]] = []

    async def follow(new: Applied, old: Applied | None) -> None:
        told.append((new.pipeline.pipeline, new.number, old.number if old else None))
        seen = {one.pipeline.pipeline: one for one in pipelines.all}.get(new.pipeline.pipeline)
        assert (seen.number if seen else None) == told[-1][2], "seen once it is followed"

    pipelines = AppliedPipelines("penstock.tally", keys, follow=follow)
    again = [applied("loans"), applied("loans", 2)]
    await restored(pipelines, [*again, applied("cards"), *again])  # published twice
    assert told == [("loans", 1, None), ("loans", 2, 1), ("cards", 1, None)]
    assert {one.pipeline.pipeline: one.number for one in pipelines.all} == {"loans": 2, "cards": 1}
    await tell(pipelines, applied("loans", 3))
    assert pipelines.get("loans").number == 3


async def test_a_pipeline_does_not_exist_only_once_all_are_known(keys: Keys, applied: Apply) -> None:
    pipelines = AppliedPipelines("penstock.tally", keys)
    with pytest.raises(Unavailable, match="still being read"):
        pipelines.get("loans")
    await restored(pipelines, [applied("loans")])
    with pytest.raises(NotFound, match=r"no pipeline `loan`\. Did you mean `loans`\?"):
        pipelines.get("loan")
    with pytest.raises(NotFound, match="There is loans"):
        pipelines.get("x")


async def test_a_file_that_cannot_be_followed_is_left_out_and_the_others_are_there(
    keys: Keys, applied: Apply
) -> None:
    def follow(new: Applied, _old: Applied | None) -> None:
        if new.number == 2:
            raise KeyError("a bug")

    pipelines = AppliedPipelines("penstock.tally", keys, follow=follow)
    unreadable = applied("cards", version=9)
    await restored(pipelines, [applied("loans"), unreadable, applied("loans", 2), applied("homes")])
    assert {one.pipeline.pipeline: one.number for one in pipelines.all} == {"loans": 1, "homes": 1}


async def test_what_the_registry_did_not_sign_is_left_out(keys: Keys, applied: Apply) -> None:
    pipelines = AppliedPipelines("penstock.tally", keys)
    honest = applied("loans", 2)
    other = applied("loans", 2, targets=lending.spec()["targets"] | {"second": {"from": "applications.sex"}})
    forged = [
        honest.model_copy(update={"number": 3}),
        applied("loans", 3).model_copy(update={"evidence": None}),
        packages.applied(keys, lending.PIPELINE_TEXT + "# another file\n", 2),
        other.model_copy(update={"evidence": honest.evidence}),
    ]
    await restored(pipelines, [honest, *forged, applied("cards")])
    assert {one.pipeline.pipeline: one.number for one in pipelines.all} == {"loans": 2, "cards": 1}
    for event in forged:
        with pytest.raises(Tampered):
            pipelines.verify(event)


@pytest.fixture
def told(keys: Keys) -> tuple[AppliedPipelines, list[tuple[str, int]]]:
    """Pipelines, and what was followed and forgotten: `+` or `-`, and the number."""
    said: list[tuple[str, int]] = []
    return (
        AppliedPipelines(
            "penstock.tally",
            keys,
            follow=lambda new, old: said.append(("+" if old is None else "+old", new.number)),
            forget=lambda name, number: said.append(("-", number)),
        ),
        said,
    )


async def test_a_deleted_pipeline_is_forgotten_and_may_be_applied_anew(
    keys: Keys, told: tuple[AppliedPipelines, list[tuple[str, int]]]
) -> None:
    pipelines, said = told
    first, second = packages.applied(keys), packages.applied(keys, number=2, deleted_before=1)
    await restored(pipelines, [first, packages.deleted(keys), first])
    with pytest.raises(NotFound):
        pipelines.get("loans")
    await tell(pipelines, second)
    assert pipelines.get("loans").number == 2
    await tell(pipelines, packages.deleted(keys))  # published twice: of the one before
    assert pipelines.get("loans").number == 2
    assert [one for one in said if one[0] != "-"] == [("+", 1), ("+", 2)]
    assert ("-", 1) in said


async def test_what_is_deleted_further_on_is_not_followed_at_a_start(
    keys: Keys, told: tuple[AppliedPipelines, list[tuple[str, int]]]
) -> None:
    """Its topics and data are gone: whoever waits for them waits for ever. Number 3 is there."""
    pipelines, said = told
    assert pipelines.router is not None
    forged = packages.deleted(keys).model_copy(update={"number": 3, "evidence": None})
    past: list[PipelineApplied | PipelineDeleted] = [
        packages.applied(keys),
        packages.applied(keys, number=2),
        packages.deleted(keys, number=2),
        packages.applied(keys, number=3, deleted_before=2),
        forged,
    ]
    for event in past:
        pipelines.router.read(Received(TOPIC, 0, 0, "e", event.ce_type(), {}, encode(event)))
    await restored(pipelines, past)
    assert [one for one in said if one[0] != "-"] == [("+", 3)]
    assert ("-", 2) in said
    assert (pipelines.get("loans").number, pipelines.ends("loans", 3)) == (3, False)


async def test_a_deletion_that_was_read_before_there_was_a_key_is_judged_once_there_is(
    tmp_path: Path,
) -> None:
    made = Keys(tmp_path / "made")
    made.ensure()
    past = [packages.applied(made), packages.deleted(made)]
    followed: list[int] = []
    pipelines = AppliedPipelines(
        "penstock.tally", Keys(tmp_path / "keys"), follow=lambda new, old: followed.append(new.number)
    )
    assert pipelines.router is not None
    for event in past:
        pipelines.router.read(Received(TOPIC, 0, 0, "e", event.ce_type(), {}, encode(event)))
    assert not pipelines.ends("loans", 1)
    (tmp_path / "made").rename(tmp_path / "keys")
    await restored(pipelines, past)
    assert followed == []
    assert pipelines.ends("loans", 1)


async def test_who_missed_the_deletion_learns_of_it_with_the_next_file(
    keys: Keys, told: tuple[AppliedPipelines, list[tuple[str, int]]]
) -> None:
    """Compaction leaves the newest file alone."""
    pipelines, said = told
    await restored(pipelines, [packages.applied(keys, number=3, deleted_before=2)])
    assert said == [("-", 2), ("+", 3)]
    await tell(pipelines, packages.applied(keys, number=4, deleted_before=2))
    assert said[2:] == [("+old", 4)]


async def test_a_deletion_that_the_registry_did_not_sign_has_no_effect(
    keys: Keys, told: tuple[AppliedPipelines, list[tuple[str, int]]]
) -> None:
    pipelines, said = told
    honest = packages.deleted(keys)
    await restored(pipelines, [packages.applied(keys, number=2)])
    for forged in (
        honest.model_copy(update={"number": 2}),
        honest.model_copy(update={"number": 2, "evidence": None}),
    ):
        await tell(pipelines, forged)
    assert pipelines.get("loans").number == 2
    assert said == [("+", 2)]
