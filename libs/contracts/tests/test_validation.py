"""What is a record, and what is rejected and why."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.contracts.dataplane import EARLIEST, LATEST, MAX_EVENT_BYTES, MAX_NUMBER
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rejected, Rules

PIPELINE = Pipeline.model_validate(
    {
        "version": 1,
        "pipeline": "credit-risk",
        "entities": {"applicant": {"key": "applicant_id"}},
        "sources": {
            "applications": {
                "entity": "applicant",
                "id": "application_id",
                "timestamp": "submitted_at",
                "fields": {
                    "income": {"type": "number", "range": [0, 1_000_000], "required": True},
                    "debts": {"type": "number", "range": [0, 1_000_000], "on_violation": "set_missing"},
                    "balance": {"type": "number"},
                    "purpose": {"type": "category", "values": ["home", "car"]},
                    "channel": {
                        "type": "category",
                        "values": ["web", "branch"],
                        "on_violation": "set_missing",
                    },
                    "note": {"type": "text", "personal": True, "max_length": 20},
                    "phone": {"type": "number", "personal": True, "range": [0, 10]},
                    "owner": {"type": "boolean"},
                },
            }
        },
        "targets": {"default": {"from": "applications.owner", "type": "binary"}},
    }
)
RULES = Rules(PIPELINE, "applications")
GOOD: dict[str, Any] = {
    "application_id": "a1",
    "applicant_id": 17,
    "submitted_at": "2026-01-31T12:00:00+01:00",
    "income": 2500,
}
FIELDS = PIPELINE.sources["applications"].fields


def check(change: dict[str, Any] | None = None, *, without: str = "") -> Accepted | Rejected:
    event = {key: value for key, value in {**GOOD, **(change or {})}.items() if key != without}
    return RULES.check(json.dumps(event).encode())


def test_a_good_event_is_a_record_with_every_declared_field() -> None:
    answer = check({"owner": True, "note": "", "purpose": "car"})
    assert answer == Accepted(
        "a1",
        "17",
        "2026-01-31T11:00:00.000000Z",
        {
            "income": 2500.0,
            "debts": None,
            "balance": None,
            "purpose": "car",
            "channel": None,
            "note": None,
            "phone": None,
            "owner": True,
        },
    )
    assert list(answer.fields) == list(FIELDS)
    assert type(answer.fields["income"]) is float


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (None, "not_json", "no value"),
        (b"", "not_json", "no value"),
        (b"{", "not_json", "line 1, column 2"),
        (b"\xff\xfe", "not_json", "UTF-8"),
        (b'{"a": "\\ud800"}', "not_json", "surrogate"),
        (b"[" * 100_000, "not_json", "no JSON"),
        (b'\0\0\0\0\x07{"a": 1}', "not_json", "begins with a zero byte, as a schema registry's framing"),
        ('{"a": 1}'.encode("utf-16-be"), "not_json", "publish plain JSON in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not_json", "UTF-8"),
        (b"NaN", "not_an_object", "a number"),
        (b'["a"]', "not_an_object", "a list"),
        (b"null", "not_an_object", "null"),
        (b'{"a": "' + b"x" * MAX_EVENT_BYTES + b'"}', "too_large", "262,144"),
    ],
)
def test_what_is_no_event_is_rejected(value: bytes | None, reason: str, detail: str) -> None:
    answer = RULES.check(value)
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.field, answer.value) == (reason, None, None)
    assert detail in answer.detail


@pytest.mark.parametrize(
    ("change", "without", "reason", "field", "value"),
    [
        ({}, "application_id", "no_id", "application_id", None),
        ({"application_id": ""}, "", "no_id", "application_id", None),
        ({"application_id": 1.5}, "", "wrong_type", "application_id", "1.5"),
        ({"application_id": "x" * 1001}, "", "too_long", "application_id", "x" * 200),
        ({}, "applicant_id", "no_key", "applicant_id", None),
        ({"applicant_id": None}, "", "no_key", "applicant_id", None),
        ({"applicant_id": True}, "", "wrong_type", "applicant_id", "true"),
        ({}, "submitted_at", "no_timestamp", "submitted_at", None),
        ({"submitted_at": "yesterday"}, "", "bad_timestamp", "submitted_at", "yesterday"),
        ({"submitted_at": "2026-01-31T12:00:00"}, "", "bad_timestamp", "submitted_at", "2026-01-31T12:00:00"),
        (
            {"submitted_at": "2026-02-30T12:00:00Z"},
            "",
            "bad_timestamp",
            "submitted_at",
            "2026-02-30T12:00:00Z",
        ),
        (
            {"submitted_at": "0001-01-01T00:00:00+14:00"},
            "",
            "bad_timestamp",
            "submitted_at",
            "0001-01-01T00:00:00+14:00",
        ),
        ({"submitted_at": 1_769_857_200_000}, "", "bad_timestamp", "submitted_at", "1769857200000"),
        ({"submitted_at": math.nan}, "", "bad_timestamp", "submitted_at", "nan"),
        ({"submitted_at": True}, "", "bad_timestamp", "submitted_at", "true"),
        ({}, "income", "missing_field", "income", None),
        ({"income": None}, "", "missing_field", "income", None),
        ({"applicant_id": "a\0"}, "", "wrong_type", "applicant_id", "a\0"),
        (
            {"submitted_at": "0001-01-01T00:00:00Z"},
            "",
            "bad_timestamp",
            "submitted_at",
            "0001-01-01T00:00:00Z",
        ),
        (
            {"submitted_at": "9999-12-31T23:59:59Z"},
            "",
            "bad_timestamp",
            "submitted_at",
            "9999-12-31T23:59:59Z",
        ),
        ({"incom": 7, "zip": 9}, "", "unknown_field", "incom", None),
        ({"income": "2500"}, "", "wrong_type", "income", "2500"),
        ({"income": True}, "", "wrong_type", "income", "true"),
        ({"balance": [1]}, "", "wrong_type", "balance", "[1]"),
        ({"purpose": 3}, "", "wrong_type", "purpose", "3"),
        ({"owner": 1}, "", "wrong_type", "owner", "1"),
        ({"owner": "true"}, "", "wrong_type", "owner", "true"),
        ({"balance": math.nan}, "", "not_finite", "balance", "nan"),
        ({"income": -math.inf}, "", "not_finite", "income", "-inf"),
        ({"income": -1}, "", "out_of_range", "income", "-1"),
        ({"income": 1_000_001}, "", "out_of_range", "income", "1000001"),
        ({"balance": 1.1e30}, "", "out_of_range", "balance", "1.1e+30"),
        ({"balance": -1.7976931348623157e308}, "", "out_of_range", "balance", "-1.7976931348623157e+308"),
        ({"balance": 2**53 + 1}, "", "out_of_range", "balance", "9007199254740993"),
        ({"note": "a\0b"}, "", "wrong_type", "note", None),
        ({"purpose": "boat"}, "", "unknown_value", "purpose", "boat"),
        ({"note": "x" * 21}, "", "too_long", "note", None),
        ({"phone": 491711234567}, "", "out_of_range", "phone", None),
        ({"phone": "0171 1234567"}, "", "wrong_type", "phone", None),
    ],
)
def test_each_broken_rule_has_its_reason_and_field(
    change: dict[str, Any], without: str, reason: str, field: str, value: str | None
) -> None:
    answer = check(change, without=without)
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.field, answer.value) == (reason, field, value)
    assert field in answer.detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"application_id": 42.0}, "not a number with a fraction"),
        ({"application_id": 18446744073709551621}, "not a number beyond 64 bits"),
        ({"applicant_id": "a\0"}, "not a text with a NUL character"),
        ({"submitted_at": "1699-12-31T23:59:59Z"}, "lies before 1700 or after 2200"),
        ({"balance": 2**53 + 1}, "has more digits than a 64-bit float holds; publish it as a text"),
        ({"balance": 1e31}, "is outside its range [-1e+30, 1e+30]"),
        ({"purpose": "boat"}, "`purpose` is none of its declared values: home, car"),
    ],
)
def test_a_reject_says_what_would_be_right(change: dict[str, Any], said: str) -> None:
    answer = check(change)
    assert isinstance(answer, Rejected)
    assert said in answer.detail


@pytest.mark.parametrize("number", [1e30, -1e30, -0.0, 5e-324, 2**53, 2**53 + 2, 0.1])
def test_a_number_within_the_bounds_is_kept_bit_by_bit(number: float) -> None:
    answer = check({"balance": number})
    assert isinstance(answer, Accepted)
    assert str(answer.fields["balance"]) == str(float(number))


def test_an_unknown_field_is_answered_with_the_nearest_name() -> None:
    answer = check({"incom": 7})
    assert isinstance(answer, Rejected)
    assert answer.detail == "the source declares no field `incom`; did you mean `income`?"


@pytest.mark.parametrize(
    "change", [{"debts": -1}, {"debts": "many"}, {"debts": math.inf}, {"channel": "fax"}, {"channel": 7}]
)
def test_a_field_may_be_set_missing_instead(change: dict[str, Any]) -> None:
    answer = check(change)
    assert isinstance(answer, Accepted)
    assert answer.fields[next(iter(change))] is None


@pytest.mark.parametrize(
    ("timestamp", "time"),
    [
        ("2026-01-31t12:00:00.5z", "2026-01-31T12:00:00.500000Z"),
        ("2026-01-31 12:00:00.123456789-00:30", "2026-01-31T12:30:00.123456Z"),
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1.5, "1969-12-31T23:59:58.500000Z"),
    ],
)
def test_times_become_utc(timestamp: object, time: str) -> None:
    answer = check({"submitted_at": timestamp})
    assert isinstance(answer, Accepted)
    assert answer.time == time


def test_id_and_key_may_be_declared_fields_too() -> None:
    spec = PIPELINE.model_dump(by_alias=True)
    spec["sources"]["applications"]["fields"] |= {
        "applicant_id": {"type": "category", "personal": True},
        "application_id": {"type": "text"},
    }
    rules = Rules(Pipeline.model_validate(spec), "applications")
    answer = rules.check(json.dumps(GOOD | {"applicant_id": "Ada"}).encode())
    assert isinstance(answer, Accepted)
    assert (answer.entity, answer.fields["applicant_id"], answer.fields["application_id"]) == (
        "Ada",
        "Ada",
        "a1",
    )
    answer = rules.check(json.dumps(GOOD | {"applicant_id": ["Ada"]}).encode())
    assert isinstance(answer, Rejected)
    assert "Ada" not in repr(answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
VALUES = JSON | st.sampled_from(["home", "web", "2026-01-31T12:00:00Z", 5, -5, 1e308, "secret" * 5])
NAMES = st.sampled_from([*FIELDS, "application_id", "applicant_id", "submitted_at"]) | st.text(max_size=10)
EVENTS = st.dictionaries(NAMES, VALUES, max_size=12).map(
    lambda change: json.dumps({**GOOD, **change}).encode()
)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | EVENTS)
@example(b'{"income": 1e999}')
@example(b'{"income": ' + b"9" * 5000 + b"}")
def test_any_bytes_get_one_answer_and_records_keep_the_rules(value: bytes) -> None:
    answer = RULES.check(value)
    if isinstance(answer, Rejected):
        orjson.dumps(answer.value)
        assert answer.detail
        assert answer.value is None or (len(answer.value) <= 200 and answer.field not in ("note", "phone"))
        return
    assert answer.id
    assert answer.entity
    assert EARLIEST <= datetime.fromisoformat(answer.time) <= LATEST
    assert not any("\0" in str(value) for value in (answer.id, answer.entity, *answer.fields.values()))
    assert list(answer.fields) == list(FIELDS)
    for name, field in FIELDS.items():
        found = answer.fields[name]
        assert found is not None or not field.required
        if found is None:
            continue
        match field.type:
            case "number":
                assert type(found) is float
                assert abs(found) <= MAX_NUMBER
                assert field.range is None or field.range[0] <= found <= field.range[1]
            case "boolean":
                assert type(found) is bool
            case _:
                assert type(found) is str
                assert 0 < len(found) <= field.max_length
                assert field.values is None or found in field.values
    assert orjson.loads(orjson.dumps(answer.fields)) == answer.fields


def zoned(timezone: str | None, missing: tuple[str, ...] = ()) -> Rules:
    changed = PIPELINE.sources["applications"].model_copy(update={"timezone": timezone, "missing": missing})
    return Rules(PIPELINE.model_copy(update={"sources": {"applications": changed}}), "applications")


@pytest.mark.parametrize(
    ("timestamp", "time"),
    [
        ("2026-07-31T12:00:00", "2026-07-31T10:00:00.000000Z"),
        ("2026-01-31 12:00", "2026-01-31T11:00:00.000000Z"),
        ("2026-01-31", "2026-01-30T23:00:00.000000Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000Z"),
    ],
)
def test_a_time_without_an_offset_is_in_the_declared_zone(timestamp: str, time: str) -> None:
    event = json.dumps(GOOD | {"submitted_at": timestamp}).encode()
    answer = zoned("Europe/Vienna").check(event)
    assert isinstance(answer, Accepted)
    assert answer.time == time
    if not timestamp.endswith("Z"):
        refused = RULES.check(event)
        assert isinstance(refused, Rejected)
        assert refused.reason == "bad_timestamp"
        assert "declare the source's `timezone`" in refused.detail


def test_a_mark_of_missing_is_missing_in_every_type_of_field() -> None:
    marked = {"debts": "NA", "purpose": "?", "note": "NA", "owner": "?", "balance": 1}
    answer = zoned(None, ("NA", "?")).check(json.dumps(GOOD | marked).encode())
    assert isinstance(answer, Accepted)
    assert {name: answer.fields[name] for name in marked} == {**dict.fromkeys(marked), "balance": 1.0}
    required = zoned(None, ("NA",)).check(json.dumps(GOOD | {"income": "NA"}).encode())
    assert isinstance(required, Rejected)
    assert required.reason == "missing_field"


def test_an_offset_is_asked_for_where_the_source_has_no_zone() -> None:
    event = json.dumps(GOOD | {"submitted_at": "31/02/2020"}).encode()
    for rules, asked in ((zoned("Europe/Vienna"), False), (RULES, True)):
        refused = rules.check(event)
        assert isinstance(refused, Rejected)
        assert ("with an offset, as in" in refused.detail, "or a day, as in" in refused.detail) == (
            asked,
            not asked,
        )


def test_a_day_that_does_not_exist_is_said_to_be_none() -> None:
    for zone, timestamp in (("Europe/Vienna", "1997-02-30"), ("", "2026-01-31T25:00:00Z")):
        rules = zoned(zone) if zone else RULES
        refused = rules.check(json.dumps(GOOD | {"submitted_at": timestamp}).encode())
        assert isinstance(refused, Rejected)
        assert "there is no such day or hour" in refused.detail
