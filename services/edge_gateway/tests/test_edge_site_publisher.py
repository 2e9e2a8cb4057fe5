"""Publishing at a site: judged at once, on disk before the answer, refused when there is no room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.contracts.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rules
from penstock.testing import lending
from penstock_edge_gateway.pseudonyms import pseudonym
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.lane_status import lane_status
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.spool import Record, Spool

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    with Spool(tmp_path / "events.db", durable=True, size=1 << 20) as spool:
        yield Lane("events", spool)


def publisher(
    lane: Lane,
    pipeline: Pipeline | None = None,
    age: timedelta = 30 * DAY,
    keys: PseudonymKeys = PseudonymKeys(Path("nowhere")),  # noqa: B008
) -> Publisher:
    files = {"loans": pipeline or lending.pipeline()}
    return Publisher(files.__getitem__, lane, age=age, clock=lambda: NOW, pseudonym=keys.pseudonym)


def event(number: int, at: str = "2026-03-01T12:00:00Z", **more: object) -> bytes:
    said = {"application_id": f"a{number}", "applicant_id": f"p{number}", "at": at, "income": 3000}
    return json.dumps(said | more).encode()


async def test_what_is_accepted_is_on_disk_as_it_was_published(lane: Lane) -> None:
    assert await publisher(lane).publish("loans", "applications", [event(0), event(1)]) == {}
    kept = lane.spool.read(10, 1 << 20).entries
    assert kept == tuple(Record("loans", "applications", f"p{n}", event(n), required=True) for n in range(2))


async def test_a_reject_is_told_at_once_and_hinders_no_other(lane: Lane) -> None:
    ahead = event(1, at="2026-03-03T12:00:00Z")
    events = [b"{", event(0, income="much"), ahead, event(2, incom=3), event(3)]
    rejects = await publisher(lane).publish("loans", "applications", events)
    assert {place: (one.reason, one.field) for place, one in rejects.items()} == {
        0: ("not_json", None),
        1: ("wrong_type", "income"),
        2: ("bad_timestamp", "at"),
        3: ("unknown_field", "incom"),
    }
    assert "did you mean `income`" in rejects[3].detail
    assert [one.body for one in lane.spool.read(10, 1 << 20).entries if isinstance(one, Record)] == [event(3)]


async def test_a_source_that_is_not_there_names_those_that_are(lane: Lane) -> None:
    with pytest.raises(NotFound, match=r"no source `people`\. Its sources: applications"):
        await publisher(lane).publish("loans", "people", [event(0)])


async def test_a_changed_file_holds_for_the_next_event(lane: Lane) -> None:
    files = {"loans": lending.pipeline()}
    keys = PseudonymKeys(Path("nowhere"))
    publishes = Publisher(files.__getitem__, lane, age=DAY, clock=lambda: NOW, pseudonym=keys.pseudonym)
    assert await publishes.publish("loans", "applications", [event(0, channel="web")])
    source = lending.spec()["sources"]["applications"]
    changed = source | {"fields": source["fields"] | {"channel": {"type": "category"}}}
    files["loans"] = lending.pipeline(sources={"applications": changed})
    assert not await publishes.publish("loans", "applications", [event(0, channel="web")])


def private(**changes: object) -> Pipeline:
    """The pipeline with a field about the person that is nobody's business in the cloud."""
    source = lending.spec()["sources"]["applications"]
    phone = {"type": "text", "personal": True} | changes
    return lending.pipeline(
        sources={"applications": source | {"fields": source["fields"] | {"phone": phone}}}
    )


async def test_what_may_not_leave_never_comes_to_disk(lane: Lane, tmp_path: Path) -> None:
    publishes = publisher(lane, private())
    assert not await publishes.publish("loans", "applications", [event(0, phone="canary-1"), event(1)])
    assert await publishes.publish("loans", "applications", [event(2, phone="canary-2", income="much")])
    (without, whole) = lane.spool.read(10, 1 << 20).entries
    assert isinstance(without, Record)
    assert json.loads(without.body) == json.loads(event(0))
    assert isinstance(whole, Record)
    assert whole.body == event(1)
    for file in tmp_path.iterdir():
        assert b"canary" not in file.read_bytes(), file.name


async def test_a_required_field_that_may_not_leave_is_refused_by_name(lane: Lane) -> None:
    with pytest.raises(Conflict, match="`phone` is required in every event of `applications`"):
        await publisher(lane, private(required=True)).publish("loans", "applications", [event(0)])


PSEUDONYMOUS = {"may_leave": ["income", "defaulted"], "pseudonymize": ["phone", "applicant_id"]}


async def test_a_value_that_may_not_leave_is_kept_as_its_pseudonym(lane: Lane, tmp_path: Path) -> None:
    file = lending.pipeline(sources=private().model_dump(by_alias=True)["sources"], edge=PSEUDONYMOUS)
    keys, key = PseudonymKeys(tmp_path / "pseudonyms"), bytes(range(32))
    publishes = publisher(lane, file, keys=keys)
    events = [event(7, phone="canary-1", purpose="canary-2"), event(7, phone="canary-1"), event(8, phone="")]
    with pytest.raises(Unavailable, match="the key for pseudonyms of `loans` has not come"):
        await publishes.publish("loans", "applications", events)
    assert lane.spool.waiting == 0
    keys.take("loans", key)
    assert not await publishes.publish("loans", "applications", events)
    kept = [one for one in lane.spool.read(10, 1 << 20).entries if isinstance(one, Record)]
    person, phone = pseudonym(key, "applicant_id", "p7"), pseudonym(key, "phone", "canary-1")
    assert (len(phone), phone == pseudonym(key, "applicant_id", "canary-1")) == (32, False)
    assert [one.entity for one in kept] == [person, person, pseudonym(key, "applicant_id", "p8")]
    assert json.loads(kept[0].body) == json.loads(event(7)) | {"applicant_id": person, "phone": phone}
    assert "phone" not in json.loads(kept[2].body), "nothing is no value"
    spooled = [file for file in tmp_path.iterdir() if file.is_file()]
    assert [file for file in spooled if b"canary" in file.read_bytes() or key in file.read_bytes()] == []
    rules = Rules(file, "applications")
    assert all(isinstance(rules.check(one.body), Accepted) for one in kept), "ingest accepts it"


async def test_a_key_is_kept_for_the_next_start_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    keys = PseudonymKeys(tmp_path)
    keys.take("loans", bytes(32))
    keys.take("cards", bytes(range(32)))
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    (tmp_path / "cards.key").write_bytes(b"torn")
    again = PseudonymKeys(tmp_path)
    assert again.fingerprints == {"loans": keys.fingerprints["loans"]}
    assert again.pseudonym("loans", "f", "v") == keys.pseudonym("loans", "f", "v")
    with pytest.raises(Invalid):
        keys.take("loans", b"short")


async def test_a_full_spool_refuses_and_says_since_when(lane: Lane) -> None:
    publishes = publisher(lane)
    large = [event(number, purpose="x" * 9000) for number in range(80)]
    await publishes.publish("loans", "applications", large)
    with pytest.raises(TooLarge) as refused:
        await publishes.publish("loans", "applications", large)
    assert "no event was taken since 2026-03-01 12:00:00+0000" in refused.value.message
    assert lane_status(lane).full_since.ToDatetime(UTC) == NOW
    lane.spool.acknowledge(40)
    await publishes.publish("loans", "applications", [event(5000)])
    said = lane_status(lane)
    assert not said.HasField("full_since")
    assert (said.lane, said.records, said.capacity_bytes) == ("events", 41, 1 << 20)
    assert said.oldest.ToTimedelta() < timedelta(minutes=5)


async def test_events_that_wait_for_too_long_let_no_more_in(tmp_path: Path) -> None:
    seconds = [0.0]
    with Spool(tmp_path / "e.db", durable=True, size=1 << 20, clock=lambda: ("boot", seconds[0])) as spool:
        publishes = publisher(Lane("events", spool), age=DAY)
        await publishes.publish("loans", "applications", [event(0)])
        seconds[0] = 2 * 86400.0
        with pytest.raises(TooLarge, match=r"1 wait for the hub, the oldest for 48\.0 h"):
            await publishes.publish("loans", "applications", [event(1)])
        spool.acknowledge(1)
        await publishes.publish("loans", "applications", [event(1)])


async def test_a_wrong_clock_makes_nothing_older_in_the_spool_and_is_named_where_an_event_is_ahead_of_it(
    tmp_path: Path,
) -> None:
    now, file = [NOW], lending.pipeline()
    with Spool(tmp_path / "e.db", durable=True, size=1 << 20) as spool:
        lane = Lane("events", spool)
        keys = PseudonymKeys(Path("nowhere"))
        publishes = Publisher(lambda _: file, lane, age=DAY, clock=lambda: now[0], pseudonym=keys.pseudonym)
        for ahead in (timedelta(hours=-1), timedelta(hours=1), 3 * DAY):
            now[0] = NOW + ahead
            assert not await publishes.publish("loans", "applications", [event(0)])
            assert lane_status(lane).oldest.ToTimedelta() < timedelta(minutes=5)
        now[0] = NOW - 3 * DAY
        (reject,) = (await publishes.publish("loans", "applications", [event(0)])).values()
    assert (reject.reason, reject.field) == ("bad_timestamp", "at")
    assert "more than 1d ahead of the clock" in reject.detail


async def test_publishers_share_commits(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    append = lane.spool.append

    def counted(records: list[Record]) -> int:
        commits.append(len(records))
        return append(records)

    monkeypatch.setattr(lane.spool, "append", counted)
    publishes = publisher(lane)
    await asyncio.gather(*(publishes.publish("loans", "applications", [event(n)]) for n in range(64)))
    assert sum(commits) == 64
    assert len(commits) < 10
    assert len(lane.spool.read(100, 1 << 20).entries) == 64
