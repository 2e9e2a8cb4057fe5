"""A batch's outcome: every event once, as a record, a reject or a duplicate; nothing changes before
the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.dataplane import MAX_REJECT_BYTES, Record, Reject
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.kafka.messages import Batch, Committed, Message, Partition, Produced
from penstock_ingest.counts import decode_counts
from penstock_ingest.history import Restored, whole_profile
from penstock_ingest.intake import CHUNK, Intake
from penstock_ingest.profile import Profiler
from penstock_ingest.seen import SeenIds

NOW = 1_800_000_000_000
WINDOW = 60_000
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def pipeline(**source: Any) -> Pipeline:
    declared = {
        "entity": "applicant",
        "id": "id",
        "timestamp": "at",
        "deduplicate": "60s",
        "fields": {
            "income": {"type": "number", "range": [0, 10]},
            "note": {"type": "text", "personal": True},
            "purpose": {"type": "category"},
        },
    }
    return Pipeline.model_validate(
        {
            "version": 1,
            "pipeline": "loans",
            "entities": {"applicant": {"key": "who"}},
            "sources": {"applications": declared | source},
            "targets": {"income": {"from": "applications.income", "type": "regression"}},
        }
    )


class Fresh:
    """A partition that never was."""

    def restore(self, partition: int, *, records: int, window_ms: int, capacity: int, now: int) -> Restored:
        assert records == 0
        return Restored(SeenIds(window_ms, capacity), {})


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


def make(clock: Clock | None = None, capacity: int = 1000, **source: Any) -> Intake:
    intake = Intake(
        pipeline(**source), "applications", restores=Fresh(), clock=clock or Clock(), capacity=capacity
    )
    intake.assigned({0: Committed(-2, ""), 1: Committed(-2, "")})
    return intake


def event(identity: object, **change: Any) -> bytes:
    return json.dumps({"id": identity, "who": "w1", "at": 1_769_857_200, "income": 1} | change).encode()


def batch(values: list[bytes | None], first: int = 0, partition: int = 1) -> Batch:
    messages = [Message(first + 2 * number, b"k", value, NOW, ()) for number, value in enumerate(values)]
    return Batch(Partition("loans.applications.events.v1", partition), messages, first + 2 * len(values))


class Answer(NamedTuple):
    produced: list[Produced]
    metadata: str
    committed: Callable[[], None]


def answer(intake: Intake, asked: Batch) -> Answer:
    sent: list[Produced] = []
    outcome = intake.process(asked, sent.extend)
    return Answer(sent, outcome.metadata, outcome.committed)


def on(outcome: Answer, kind: str) -> list[Any]:
    return [
        orjson.loads(one.value or b"")
        for one in outcome.produced
        if one.topic == f"loans.applications.{kind}.v1"
    ]


def ids(outcome: Answer) -> list[str]:
    return [record["id"] for record in on(outcome, "records")]


def test_an_event_far_ahead_of_the_clock_is_rejected_and_a_file_may_say_how_far() -> None:
    ahead = {"at": NOW / 1000 + 3 * 86_400}
    (rejected,) = on(answer(make(), batch([event(1, **ahead)])), "rejects")
    assert "more than 1d ahead of the clock (`at_most_ahead`)" in rejected["detail"]
    assert ids(answer(make(at_most_ahead="3d"), batch([event(1, **ahead)]))) == ["1"]


def test_a_record_has_the_contract_s_shape_and_the_event_s_place() -> None:
    good = Message(7, b"whatever", event("a", note="hm", purpose="car"), NOW, [("traceparent", TRACE)])
    (record, seen) = answer(make(), Batch(Partition("loans.applications.events.v1", 1), [good], 8)).produced
    assert (record.topic, record.partition, record.key) == ("loans.applications.records.v1", 1, b"w1")
    assert record.headers == [("traceparent", TRACE)]
    value = orjson.loads(record.value or b"")
    assert value.keys() == Record.__annotations__.keys()
    assert value == {
        "id": "a",
        "entity": "w1",
        "time": "2026-01-31T11:00:00.000000Z",
        "partition": 1,
        "offset": 7,
        "traceparent": TRACE.decode(),
        "fields": {"income": 1.0, "note": "hm", "purpose": "car"},
    }
    assert (seen.topic, seen.partition, seen.key, len(seen.value or b"")) == (
        "loans.applications.seen.v1",
        1,
        None,
        8,
    )


def test_a_reject_keeps_the_original_bytes_and_its_place() -> None:
    broken = b"{" + b"x" * MAX_REJECT_BYTES
    (reject,) = answer(make(), batch([broken], first=5)).produced
    assert (reject.topic, reject.partition, reject.key, reject.headers) == (
        "loans.applications.rejects.v1",
        1,
        b"k",
        None,
    )
    value = orjson.loads(reject.value or b"")
    assert value.keys() == Reject.__annotations__.keys()
    assert (value["reason"], value["field"], value["partition"], value["offset"]) == ("not_json", None, 1, 5)
    assert (base64.b64decode(value["original"]), value["truncated"]) == (broken[:MAX_REJECT_BYTES], True)
    assert (value["digest"], value["time"]) == (
        hashlib.sha256(broken).hexdigest(),
        "2027-01-15T08:00:00.000+00:00",
    )


def test_a_header_that_is_no_traceparent_harms_nobody() -> None:
    odd = [
        Message(at, None, event(at), NOW, [("traceparent", header)])
        for at, header in enumerate([b"\xff" * 55, b"", b"x" * 3000])
    ]
    outcome = answer(make(), Batch(Partition("loans.applications.events.v1", 0), odd, 3))
    assert [record["traceparent"] for record in on(outcome, "records")] == [None] * 3


def test_nothing_is_remembered_before_the_commit() -> None:
    intake = make()
    first = answer(intake, batch([event("a"), event("a"), b"{"]))
    again = answer(intake, batch([event("a"), event("a"), b"{"]))
    assert first.produced == again.produced
    assert first.metadata == again.metadata
    again.committed()
    after = answer(intake, batch([event("a"), event("b")], first=6))
    assert ids(after) == ["b"]
    counts = decode_counts(after.metadata)
    assert (counts.events, counts.records, counts.duplicates, counts.rejects) == (5, 2, 2, {"not_json": 1})


def test_a_chunk_is_on_its_way_to_kafka_before_the_next_is_decoded() -> None:
    intake, sent = make(), list[int]()
    chunks = [[event(number) for number in range(CHUNK)], [b"{"] * CHUNK, [event("last")]]
    intake.process(batch([value for chunk in chunks for value in chunk]), lambda made: sent.append(len(made)))
    assert sent == [*map(len, chunks), 1], "the ids that were seen come last"


def test_a_repeat_is_known_within_the_window_and_in_its_own_partition() -> None:
    clock = Clock()
    intake = make(clock)
    answer(intake, batch([event("a")])).committed()
    clock.now += WINDOW
    assert ids(answer(intake, batch([event("a")], first=2))) == []
    assert ids(answer(intake, batch([event("a")], partition=0))) == ["a"]
    clock.now += 1
    assert ids(answer(intake, batch([event("a")], first=2))) == ["a"]


def test_beyond_the_capacity_the_oldest_are_forgotten_and_counted() -> None:
    clock = Clock()
    intake = make(clock, capacity=32)
    for number in range(40):
        clock.now += 1
        outcome = answer(intake, batch([event(number)], first=2 * number))
        outcome.committed()
    forgotten = decode_counts(outcome.metadata).forgotten
    assert 8 <= forgotten <= 8 + 32 // 16
    accepted = ids(answer(intake, batch([event(number) for number in range(40)], first=80)))
    assert accepted == [str(number) for number in range(forgotten)]


def test_a_partition_that_comes_straight_back_is_as_it_was() -> None:
    intake = make()
    outcome = answer(intake, batch([event("a")]))
    outcome.committed()
    intake.assigned({1: Committed(2, outcome.metadata)})
    assert ids(answer(intake, batch([event("a")], first=2))) == []


def test_a_changed_pipeline_holds_from_the_next_batch_on() -> None:
    intake = make()
    assert ids(answer(intake, batch([event("a", income=11)]))) == []
    intake.follow(pipeline(fields={"income": {"type": "number"}, "zip": {"type": "category"}}))
    (record,) = on(answer(intake, batch([event("a", income=11, zip="9")])), "records")
    assert record["fields"] == {"income": 11.0, "zip": "9"}


def test_the_profile_travels_as_deltas_with_a_checkpoint_now_and_then() -> None:
    intake = make()
    messages, records = [], []
    for number in range(150):
        outcome = answer(
            intake,
            batch(
                [event(number, income=number % 11, purpose=f"p{number % 3}", note="secret")], first=2 * number
            ),
        )
        outcome.committed()
        records += [record["fields"] for record in on(outcome, "records")]
        (seen,) = [one for one in outcome.produced if one.topic.endswith("seen.v1")]
        messages.append(Message(number, None, seen.value, NOW, seen.headers or ()))
    assert [number for number, message in enumerate(messages) if message.header("profile")] == [0, 64, 128]
    found = whole_profile(messages[64:])
    fields = pipeline().sources["applications"].fields
    columns = {name: [record[name] for record in records] for name in fields}
    expected = Profiler(fields).add(columns).profile()
    assert found is not None
    assert found["purpose"] == expected["purpose"]
    assert (found["note"].present, found["note"].values) == (150, {}), "a personal field's values stay out"
    assert found["income"].moments is not None
    assert expected["income"].moments is not None
    assert abs(found["income"].moments.mean - expected["income"].moments.mean) < 1e-12
    assert abs(found["income"].moments.squares - expected["income"].moments.squares) < 1e-9
    assert b"secret" not in b"".join(value for message in messages for _, value in message.headers)


EVENTS = st.one_of(
    st.integers(0, 6).map(event),
    st.tuples(st.integers(0, 6), st.floats(-5, 15)).map(lambda pair: event(pair[0], income=pair[1])),
    st.binary(max_size=5),
    st.none(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(EVENTS, max_size=12), st.integers(0, 40_000), st.booleans()), max_size=8))
def test_against_a_plain_model(steps: list[tuple[list[bytes | None], int, bool]]) -> None:
    """Batches at rising times, some of them aborted, against a dict from id to when it was accepted."""
    clock, accepted, total, offset = Clock(), dict[str, int](), Counter[str](), 0
    intake = make(clock)
    for values, later, aborted in steps:
        if not values:
            continue
        clock.now += later
        outcome = answer(intake, batch(values, first=offset))
        expected, added = Counter[str](), dict[str, int]()
        for value in values:
            try:
                known = json.loads(value or b"")
                good = 0 <= known["income"] <= 10
            except (ValueError, TypeError, KeyError):
                good = False
            if not good:
                expected["rejects"] += 1
            elif (one := str(known["id"])) in added or accepted.get(one, 0) >= clock.now - WINDOW:
                expected["duplicates"] += 1
            else:
                added[one] = clock.now
        assert ids(outcome) == list(added)
        assert len(on(outcome, "rejects")) == expected["rejects"]
        counts = decode_counts(outcome.metadata)
        assert counts.events == len(values) + total.total()
        assert (counts.duplicates, counts.rejects.total()) == (
            total["duplicates"] + expected["duplicates"],
            total["rejects"] + expected["rejects"],
        )
        if not aborted:
            outcome.committed()
            offset += 2 * len(values)
            accepted |= added
            total += expected + Counter(records=len(added))
