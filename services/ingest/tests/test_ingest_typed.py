"""Events decoded by their type: the same records as by the rules, and the rules are not asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import orjson
import pytest

from penstock.contracts.dataplane import LATEST, MAX_EVENT_BYTES
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rejected, Rules
from penstock.runtime.kafka.messages import Message
from penstock_ingest.produced import records
from penstock_ingest.typed import TypedRules

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FIELDS: dict[str, Any] = {
    "income": {"type": "number", "range": [0, 1_000_000], "required": True},
    "debts": {"type": "number", "range": [-1, 1], "on_violation": "set_missing"},
    "balance": {"type": "number"},
    "far": {"type": "number", "range": [1e20, 1e25]},
    "class": {"type": "category", "values": ["home", "a\u00e9\U0001f600", "x" * 40], "max_length": 30},
    "code": {"type": "category", "required": True, "max_length": 5},
    "rank": {"type": "category", "values": ["1", "2"], "required": True},
    "note": {"type": "text", "from": "Note", "personal": True, "max_length": 8},
    "owner": {"type": "boolean"},
    "sure": {"type": "boolean", "required": True},
}
GOOD: dict[str, Any] = {
    "id": "e1", "who": 17, "at": "2026-01-31T12:00:00Z", "income": 2500, "debts": 0.25, "balance": -3,
    "class": "home", "code": "ab", "rank": "1", "note": "hm", "owner": None, "sure": True,
}  # fmt: skip


def pipeline(fields: dict[str, Any] | None = None, **source: Any) -> Pipeline:
    declared = {"entity": "person", "id": "id", "timestamp": "at", "fields": FIELDS | (fields or {})}
    return Pipeline.model_validate(
        {
            "version": 1,
            "pipeline": "loans",
            "entities": {"person": {"key": "who"}},
            "sources": {"applications": declared | source},
            "targets": {"income": {"from": "applications.income", "type": "regression"}},
        }
    )


NAMED = {
    "id": {"type": "text", "max_length": 20},
    "who": {"type": "category", "on_violation": "set_missing", "max_length": 2_000},
    "at": {"type": "text"},
}
LONG = {"type": "category", "values": ["12"], "required": True, "max_length": 1}
# Pipelines, each with an event that it accepts.
PIPELINES = {
    "plain": (pipeline(), GOOD),
    "marks and a zone": (pipeline(missing=["NA", "?", "x"], timezone="Europe/Vienna"), GOOD),
    "all three are fields": (pipeline(NAMED, missing=["e1"]), GOOD | {"id": "e2", "who": "w1"}),
    "the time is a number": (
        pipeline({"at": {"type": "number", "range": [0, 2e9]}}),
        GOOD | {"at": 1_769_857_200.25},
    ),
    "the id is the key": (pipeline(id="who"), {name: GOOD[name] for name in GOOD if name != "id"}),
    "the key is a number": (pipeline({"who": {"type": "number"}}), GOOD),
    "no value fits": (pipeline({"rank": LONG}), GOOD),
}


class Asked(Rules):
    """Rules that know what they were asked."""

    def __init__(self, spec: Pipeline, source: str) -> None:
        super().__init__(spec, source)
        self.asked: list[bytes | None] = []

    def check(self, value: bytes | None, latest: datetime = LATEST) -> Accepted | Rejected:
        self.asked.append(value)
        return super().check(value, latest)


# Values as they are written: no writer of JSON would.
WRITTEN = r"""
-0 -0.0 0 1 1.0 1e0 1E+2 2500.50 0.1 1e-7 123456.789e-3 5e-324 1e-400 1e400 -1e400 1e30 1.1e30 1e22 1e9
NaN Infinity -Infinity 01 1. .5 +1 --1 1769857200.123456789 true false null True [] {} {"a":{"b":[1]}} 'x' x
"x 9007199254740991 9007199254740992 9007199254740993 -9007199254740993 9007199254740993.0
9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809
18446744073709551615 18446744073709551616
"" "NA" "?" "x" "1" "2" "home" "hom\u0065" "a\u00e9\ud83d\ude00" "\ud83d\ude00" "\ud800" "\udc00" "a\u0000b"
"\\u0000" "\n\t\/\"" "12345678" "123456789" "жжжжжжжж" "aé😀"
"""
ODD = [
    *WRITTEN.split(),
    *("", '"\n"', '"a\0b"', '"\x7f\u2028\ufeff"', "9" * 40, "9" * 400, "[" * 2000 + "]" * 2000),
    *('"' + "x" * size + '"' for size in (20, 21, 40, 1_000, 1_001, 2_000)),
    *('"' + "x" * (MAX_EVENT_BYTES - size) + '"' for size in (0, 150, 220)),
]
DAYS = "2026-01-31 2026-02-30 2026-W01-1 20260131 0000-01-01 1700-01-01 1699-12-31 2200-01-01 ٢٠٢٦-01-31"
HOURS = (
    "12:00:00 24:00:00 12:00:60 120000 12:00 00:00:00 12:00:00.5 12:00:00.1234567 00:00:00.000001 12:00:00,5"
)
TIMES = [
    *(f"{day}T{hour}Z" for day in DAYS.split() for hour in HOURS.split()),
    *(
        f"2026-01-31T12:00:00{zone}"
        for zone in ("", "z", "+00:00", "-00:00", "+01:30", "Z ", r"Z\n", r"Z\u0000")
    ),
    *("2026-07-01", "2026-07-01 12:00", "2026-01-31t12:00:00z", "2026-01-31T12:00:00.000000+00:00", "e1"),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
]
NUMBERS: list[Callable[[random.Random], str]] = [
    lambda draw: repr(draw.uniform(-1, 1) * 10.0 ** draw.randrange(-30, 31)),
    lambda draw: str(draw.randrange(-(2 ** draw.randrange(1, 70)), 2 ** draw.randrange(1, 70))),
    lambda draw: f"{draw.uniform(0, 1e6):.{draw.randrange(20)}f}",
    lambda draw: f"{draw.randrange(10**17)}e-{draw.randrange(30)}",
]


def bodies(good: dict[str, Any], seed: int, count: int) -> Iterator[bytes]:
    """The good event, most with one to three things changed; and bytes."""
    draw = random.Random(seed)
    for number in range(count):
        members = [(name, json.dumps(value)) for name, value in good.items()]
        for _ in range(draw.choice((0, 1, 1, 2, 3))):
            at = draw.randrange(len(members))
            name, kind = members[at][0], draw.random()
            value = draw.choice(ODD) if kind < 0.6 else draw.choice(NUMBERS)(draw)
            if name == "at" and kind < 0.7:
                value = f'"{draw.choice(TIMES)}"'
            match draw.randrange(12):
                case 0:
                    members.insert(draw.randrange(len(members)), (name, value))  # a key twice
                case 1:
                    members.pop(at)
                case 2:
                    members.append(
                        (draw.choice(("zip", "", "Class", "far", "f0", "cla\\u0073s", "\\ud800")), value)
                    )
                case _:
                    members[at] = name, value
        space = draw.choice(("", "", " ", "\n\t\r "))
        body = "{" + ",".join(f'{space}"{name}":{space}{value}' for name, value in members) + space + "}"
        raw = body.encode()
        if number % 40 == 0:
            place = draw.randrange(len(raw))
            raw = raw[:place] + draw.randbytes(draw.randrange(3)) + raw[place + draw.randrange(3) :]
        yield (
            raw
            if number % 101
            else draw.choice((b"", b"\xef\xbb\xbf" + raw, raw + b" x", b"[" + raw + b"]", raw[:-1]))
        )


def compare(name: str, seed: int, count: int) -> int:
    """Bodies by their type, in chunks, and by the rules alone. Returns how many the type took."""
    spec, good = PIPELINES[name]
    rules, alone = Asked(spec, "applications"), Rules(spec, "applications")
    typed = TypedRules(spec, "applications", rules)
    values, taken = list(bodies(good, seed, count)), 0
    for first in range(0, count, 100):
        messages = [
            Message(at, None, value, 0, [("traceparent", TRACE.encode())] if at % 2 else ())
            for at, value in enumerate(values[first : first + 100], first)
        ]
        rules.asked.clear()
        accepted, rejected = typed.check(messages, LATEST)
        answers = [(message, alone.check(message.value)) for message in messages]
        assert rejected == [pair for pair in answers if isinstance(pair[1], Rejected)]
        expected = [(message, event) for message, event in answers if isinstance(event, Accepted)]
        for made, (message, event) in zip(records("records", 3, accepted), expected, strict=True):
            record = {
                "id": event.id, "entity": event.entity, "time": event.time, "partition": 3,
                "offset": message.offset, "traceparent": TRACE if message.headers else None,
                "fields": event.fields,
            }  # fmt: skip
            by_rules = message.value in rules.asked
            written = orjson.dumps(orjson.loads(made.value or b"")) if by_rules else made.value
            assert (made.key, written) == (event.entity.encode(), orjson.dumps(record)), message.value
        taken += len(messages) - len(rules.asked)
    return taken


@pytest.mark.parametrize("name", PIPELINES)
def test_what_the_type_accepts_is_the_record_that_the_rules_make(name: str) -> None:
    taken = compare(name, seed=1, count=400)
    assert taken > 80 or name in ("the key is a number", "no value fits"), "else little was compared"


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_the_same_of_a_hundred_thousand_bodies(name: str) -> None:
    compare(name, seed=2, count=100_000 // len(PIPELINES))


def test_the_rules_are_not_asked_about_what_is_as_declared() -> None:
    spec, _ = PIPELINES["marks and a zone"]
    rules = Asked(spec, "applications")
    usual: list[dict[str, Any]] = [
        {"id": 2**62, "who": "w"},
        {"at": 1_769_857_200},
        {"at": "2026-01-31T12:00:00.25+01:00"},
        {"at": "2026-01-31"},
        {"note": "", "class": "", "owner": "NA", "debts": "?"},
        {"note": "NA", "class": None, "balance": 1e15},
    ]
    messages = [Message(0, None, json.dumps(GOOD | change).encode(), 0, ()) for change in usual]
    accepted, rejected = TypedRules(spec, "applications", rules).check(messages, LATEST)
    assert (len(accepted.ids), rejected, rules.asked) == (len(usual), [], [])
