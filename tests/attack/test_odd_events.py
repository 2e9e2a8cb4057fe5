"""Events with anything wrong in them: each is a record, a reject with a reason or a duplicate, and a
record is what an independent reader of the same bytes finds, by the pipeline's file.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
import pytest
from census import Served
from wire import Sent, Wire, memory, pids, until_no_more

from penstock.client import Penstock
from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.load import read
from penstock.contracts.pipeline import Pipeline, Source
from penstock.contracts.topics import source_topic
from penstock.testing.mutations import Mutations
from penstock.testing.stack import StackUnderTest, running_stack
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

SEED = 20_261_130
FEW, MANY = 500, 100_000
NOW = datetime(2026, 3, 1, tzinfo=UTC)
TEXT = """\
version: 1
pipeline: odd-events
entities:
  unit: {key: unit}
sources:
  readings:
    entity: unit
    id: reading
    timestamp: at
    at_most_ahead: 36500d
    fields:
      speed: {type: number, range: [-100, 1e6], required: true}
      load: {type: number}
      heat: {type: number, range: [0, 9], on_violation: set_missing}
      kind: {type: category, values: [a, b, "1", "null"]}
      site: {type: category, personal: true, max_length: 20}
      shift: {type: category, values: [day], on_violation: set_missing}
      note: {type: text, max_length: 1000}
      open: {type: boolean}
      bad: {type: boolean, required: true}
  visits:
    entity: unit
    id: visit
    timestamp: at
    partitions: 1
    fields:
      unit: {type: category}
      why: {type: text, max_length: 1000000}
      hot: {type: number, on_violation: set_missing}
targets:
  bad: {from: readings.bad, type: binary}
"""
PIPELINE = read(TEXT)
KEY = "unit"
TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


# -- the independent reader ------------------------------------------------------------------------


class Read(NamedTuple):
    id: str
    entity: str
    time: datetime
    fields: dict[str, Any]


class Wrong(Exception):
    pass


def judged(value: bytes, source: Source, pipeline: Pipeline = PIPELINE) -> Read | None:
    """The record of an event's bytes by the standard library's JSON; None for what is none."""
    try:
        event = json.loads(value.decode("utf-8-sig"), parse_int=_whole)
        json.dumps(event, ensure_ascii=False).encode()  # a lone surrogate is no text
        if len(value) > 256 * 1024 or type(event) is not dict:
            return None
        key = pipeline.entities[source.entity].key
        if not event.keys() <= {*source.fields, source.id, key, source.timestamp}:
            return None
        fields = {name: _field(event.get(name), field) for name, field in source.fields.items()}
        return Read(_name(event.get(source.id)), _name(event.get(key)), _time(event, source), fields)
    except (Wrong, ValueError, OverflowError, RecursionError):
        return None


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < 1000 else float(digits)  # int() refuses thousands of digits


def _name(value: Any) -> str:
    if type(value) is int and -(2**63) <= value < 2**64:
        return str(value)
    if type(value) is not str or not 0 < len(value) <= 1000 or "\0" in value:
        raise Wrong
    return value


def _time(event: dict[str, Any], source: Source) -> datetime:
    value = event.get(source.timestamp)
    if type(value) is str and TIME.fullmatch(value):
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    elif type(value) in (int, float) and math.isfinite(value):
        moment = datetime.fromtimestamp(value, UTC)
    else:
        raise Wrong
    latest = min(datetime(2200, 1, 1, tzinfo=UTC), datetime.now(UTC) + source.at_most_ahead)
    if not datetime(1700, 1, 1, tzinfo=UTC) <= moment <= latest:
        raise Wrong
    return moment


def _field(value: Any, field: Any) -> Any:
    if value is None or (value == "" and field.type in ("category", "text")):
        found = None
    elif _fits(value, field):
        found = float(value) if field.type == "number" else value
    elif field.on_violation == "set_missing":
        found = None
    else:
        raise Wrong
    if found is None and field.required:
        raise Wrong
    return found


def _fits(value: Any, field: Any) -> bool:
    if field.type == "boolean":
        return type(value) is bool
    if field.type == "number":
        low, high = field.range or (-1e30, 1e30)
        if type(value) not in (int, float) or not max(low, -1e30) <= value <= min(high, 1e30):
            return False
        # Beyond 64 bits a whole number is read as any other: rounded.
        return type(value) is float or float(value) == value or not -(2**63) <= value < 2**64
    return (
        type(value) is str
        and "\0" not in value
        and len(value) <= field.max_length
        and (field.values is None or value in field.values)
    )


# -- what is sent, and what became of it -----------------------------------------------------------


def seeds(name: str, source: Source, mutations: Mutations) -> Iterator[dict[str, Any]]:
    """Valid events of a source without end."""
    draw = mutations.draw
    values = {
        "number": (1.5, 0, 7, 8.25),
        "category": ("a", "b"),
        "text": ("hm", "so ß it is"),
        "boolean": (True, False),
    }
    number = 0
    while True:
        number += 1
        event: dict[str, Any] = {
            source.id: draw.choice([f"{name}{number}", number, f"{name}{draw.randrange(number)}"]),
            KEY: f"u{draw.randrange(50)}",
            source.timestamp: (NOW + timedelta(seconds=draw.randrange(10**6))).isoformat(),
        }
        for field, declared in source.fields.items():
            if field not in event and (declared.required or draw.random() < 0.7):
                event[field] = draw.choice(declared.values or values[declared.type])
        yield event


def send(wire: Wire, mutations: Mutations, count: int) -> None:
    sources = {name: seeds(name, source, mutations) for name, source in PIPELINE.sources.items()}
    for _ in range(count):
        name = mutations.draw.choice([*sources])
        event = next(sources[name])
        key = mutations.key(str(event[KEY]).encode())
        headers = mutations.headers({"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "content-type": "x"})
        topic = source_topic("events", PIPELINE.pipeline, name)
        value = mutations.message(event) if mutations.draw.random() < 0.995 else None
        wire.send(Sent(topic, value, key, headers, name))
    wire.flush()


def until_taken(client: Penstock, sent: list[Sent], within: float) -> None:
    """Until ingest has answered all, and the feature store's lake holds every record."""
    for source in PIPELINE.sources:
        expected = sum(one.made == source for one in sent)
        counts = until(
            lambda name=source: client.events.counts(PIPELINE.pipeline, name),  # type: ignore[misc]
            accept=lambda now, all_of=expected: now.events == all_of,  # type: ignore[misc]
            despite=(NotFound, Unavailable),
            within=within,
            what=f"ingest has answered all events of {source}",
        )
        until(
            lambda name=source: _rows(client, name),  # type: ignore[misc]
            accept=lambda rows, all_of=counts.records: rows == all_of,  # type: ignore[misc]
            despite=(NotFound, Unavailable),
            within=within,
            what=f"the lake holds {counts.records} records of {source}",
        )


def _rows(client: Penstock, source: str) -> int:
    found = client.features.positions(PIPELINE.pipeline).sources
    return sum(one.rows for one in found if one.source == source)


def check(client: Penstock, sent: list[Sent]) -> Counter[str]:
    """Each event has one answer, and the right one. Counts answers and reasons."""
    outcomes = Counter[str]()
    for name, source in PIPELINE.sources.items():
        records = answers(client, "records", name)
        rejects = answers(client, "rejects", name)
        known: set[tuple[int, str]] = set()
        for one in sorted((one for one in sent if one.made == name), key=lambda one: one.place):
            place = one.place[1:]
            expected = judged(one.value or b"", source)
            told = f"seed {SEED}: {place} {one.value!r}"
            if expected is None:
                assert place not in records, f"accepted, and is none: {told} {records[place]}"
                reject = rejects.pop(place)
                assert reject["reason"], told
                assert reject["detail"], told
                outcomes[reject["reason"]] += 1
                continue
            assert place not in rejects, f"rejected, and is a record: {told} {rejects[place]}"
            where = place[0], expected.id
            if where in known:
                assert place not in records, f"taken twice: {told}"
                outcomes["duplicate"] += 1
                continue
            known.add(where)
            record = records.pop(place)
            assert (record["id"], record["entity"]) == (expected.id, expected.entity), told
            assert datetime.fromisoformat(record["time"]) == expected.time, told
            assert typed(record["fields"]) == typed(expected.fields), told
            outcomes["record"] += 1
        assert records == rejects == {}
    for name in PIPELINE.sources:
        counts = client.events.counts(PIPELINE.pipeline, name)
        assert counts.events == counts.records + counts.duplicates + sum(counts.rejects.values())
    return outcomes


def typed(fields: dict[str, Any]) -> dict[str, tuple[type, str]]:
    return {name: (type(value), repr(value)) for name, value in fields.items()}


def answers(client: Penstock, kind: Any, source: str) -> dict[tuple[int, int], Any]:
    """Records or rejects by their event's partition and offset."""
    found = [
        orjson.loads(message.value() or b"")
        for message in client.events.read(source_topic(kind, PIPELINE.pipeline, source))
    ]
    by_event = {(one["partition"], one["offset"]): one for one in found}
    assert len(by_event) == len(found), "an event has two answers"
    return by_event


def test_odd_events_are_all_accounted_for(served: Served, stack: StackUnderTest) -> None:
    client, wire = served.client, Wire(stack.stack.kafka)
    client.pipelines.apply(TEXT, by="test")
    running = pids(stack)
    send(wire, Mutations(SEED), FEW)
    until_taken(client, wire.sent, within=60)
    outcomes = check(client, wire.sent)
    assert outcomes["record"] > FEW / 5
    assert outcomes.total() == FEW
    assert pids(stack) == running


@pytest.mark.slow
def test_a_hundred_thousand_are_too() -> None:
    with running_stack() as stack:
        client, wire, mutations = stack.client, Wire(stack.stack.kafka), Mutations(SEED)
        client.pipelines.apply(TEXT, by="test")
        running, held = pids(stack), []
        for half in range(2):
            send(wire, mutations, MANY // 2)
            until_taken(client, wire.sent, within=600)
            held.append(until_no_more(stack, held[0]) if half else memory(stack))
        outcomes = check(client, wire.sent)
        stack.ready()
        assert pids(stack) == running
    print(f"\n{dict(outcomes)}; held {held[0]}, then {held[1]}")
    assert outcomes.total() == MANY
