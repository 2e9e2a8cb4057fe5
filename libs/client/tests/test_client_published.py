"""publish's account: what a person has to know of duplicates, of a reject, and of IDs that were made."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.client import lineage, outcomes
from penstock.client.ages import ages_of
from penstock.client.cli import predictions as cli
from penstock.client.cli.output import EMPTY
from penstock.client.cli.predictions import _unnamed, steps
from penstock.client.cli.published import event_id, said
from penstock.client.connection import Connection
from penstock.client.events import Published
from penstock.client.lineage import Lineage, Tracing
from penstock.client.outcomes import Example, Outcome
from penstock.client.places import Places
from penstock.client.predictions import Predictions
from penstock.client.repeats import Changed, changed
from penstock.contracts.errors import NotFound, PenstockError, Unavailable
from penstock.contracts.load import read
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.ingest.v1 import ingest_pb2 as ingest
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer

FILE = """\
version: 1
pipeline: loans
entities: {person: {key: row}}
sources:
  events:
    entity: person
    id: row
    timestamp: at
    columns: {row: $row_content, at: $publishing_time}
    fields:
      income: {type: number}
      sex: {type: category, protected: true}
      pin: {type: text, personal: true}
      defaulted: {type: boolean}
targets:
  default: {from: events.defaulted, type: binary}
"""
NUMBERED, OF_ITS_OWN = FILE.replace("$row_content", "$row_number"), FILE.replace("row: $row_content, ", "")


def account(
    text: str,
    *,
    records: int = 0,
    duplicates: int = 0,
    examples: tuple[Example, ...] = (),
    differ: Changed | None = None,
) -> str:
    rejects = Counter(one.reject["reason"] for one in examples for _ in range(one.count))
    told = Outcome(records + duplicates + rejects.total(), records, duplicates, rejects, 0, examples)
    first = [b"{", {"row": "1f-1", "income": 3}]
    published, young = Published(told.events, 0, 1.0, ()), ages_of((), datetime.now(UTC))
    return "\n".join(said(published, told, read(text), "events", first, young, differ))


def test_a_duplicate_is_said_to_change_nothing() -> None:
    assert "changes nothing, also where it differs" in account(OF_ITS_OWN, records=1, duplicates=9)
    assert "taken for it" in account(FILE, records=9, duplicates=1)
    assert "duplicate " not in account(OF_ITS_OWN, records=9)


def test_rows_whose_ids_came_before_with_another_content_are_told() -> None:
    """Two of four: row 1 was rejected then, of row 4 an older and a newer event have the id."""
    spec = read(OF_ITS_OWN)
    values = {"7": (2.0,), "8": (3.0,), "9": (9.0, 4.0)}

    def records(_pipeline: str, _source: str, *, id: str) -> list[features.Record]:  # noqa: A002
        kept = [features.Value(number=value) for value in values.get(id, ())]
        return [features.Record(id=id, fields={"income": one, "sex": features.Value()}) for one in kept]

    lake: Any = SimpleNamespace(records=records)
    rows = [{"row": number, "income": number - 5, "sex": "f"} for number in (6, 7, 8, 9)]
    rows[1]["income"] = 5
    rows[2]["income"] = 1
    differ = changed(lake, spec, "events", rows)
    assert differ == Changed(2, 4, 2, ("income",))
    told = account(OF_ITS_OWN, duplicates=4, differ=differ)
    assert (
        "2 of the first 4 rows differ from what came before under their `row`, as row 2 in `income`" in told
    )
    assert changed(lake, read(FILE), "events", rows) is None, "publishing makes the ids of the content"

    def away(*_: object, **__: object) -> None:
        raise Unavailable("the feature store is away")

    lake.records = away
    assert changed(lake, spec, "events", rows) is None


@pytest.mark.parametrize(("records", "warned"), [(1, True), (0, False), (9, False)])
def test_few_records_among_duplicates_may_be_corrected_rows(records: int, warned: bool) -> None:
    text = account(FILE, records=records, duplicates=5)
    assert ("a corrected one is a record, and its old one stays beside it" in text) == warned
    assert ("penstock erase loans ID takes the old one" in text) == warned


def test_whoever_has_several_rows_is_not_to_be_erased_for_one() -> None:
    text = FILE.replace("key: row", "key: person_id")
    said_of_it = account(text, records=1, duplicates=5)
    assert "stays beside it" in said_of_it
    assert "erase" not in said_of_it


def test_an_id_that_publishing_makes_is_shown() -> None:
    assert account(FILE, records=9).endswith("ID of the file's first row, for predict and erase: 1f-1")
    assert account(NUMBERED, records=9).endswith(": 1f-1")
    assert "1f-1" not in account(OF_ITS_OWN, records=9)


@pytest.mark.parametrize(("row", "shown"), [(1, False), (2, True)])
def test_the_id_of_a_row_that_was_rejected_is_not_given_to_ask_by(row: int, shown: bool) -> None:
    reject: Any = {"reason": "unknown_value", "field": "income", "value": "x", "detail": "odd"}
    text = account(FILE, records=9, examples=(Example(row, reject),))
    assert ("ID of the file's first row" in text) == shown


def test_who_cannot_ask_ingest_is_told_that_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(*_: object) -> object:
        raise PenstockError("an internal error")

    monkeypatch.setattr(outcomes, "WITHIN_S", 0.2)
    events: Any = SimpleNamespace(counts=counts)
    with pytest.raises(Unavailable) as caught:
        outcomes.outcome(events, "loans", "events", Published(9, 0, 1.0, ()), ingest.GetCountsResponse())
    said = str(caught.value)
    assert "all 9 events are on Kafka's disk, each acknowledged" in said
    assert "(an internal error)" in said
    assert "To publish the file again is safe" in said
    assert "`penstock status`" in said


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("income", "(row 12: Maybe)"),
        ("at", "(row 12: Maybe)"),
        ("row", "(row 12)"),
        ("sex", "(row 12)"),
        ("pin", "(row 12)"),
    ],
)
def test_a_reject_names_its_row_and_a_value_that_anybody_may_see(field: str, shown: str) -> None:
    reject: Any = {"reason": "wrong_type", "field": field, "value": "Maybe", "detail": f"`{field}` is odd"}
    text = account(FILE, records=9, examples=(Example(12, reject),))
    assert f"1 wrong_type: `{field}` is odd {shown}" in text.splitlines()[2]


def test_rejects_of_one_reason_are_told_by_field() -> None:
    def reject(field: str, offset: int) -> Any:
        said = {"reason": "missing_field", "field": field, "value": None, "detail": f"`{field}` is missing"}
        return said | {"partition": 0, "offset": offset}

    places = Places()
    for row in range(1, 5):
        places.add(0, row, row)
    found = [("events", reject(*one)) for one in (("income", 3), ("income", 2), ("sex", 1), ("sex", 99))]
    published = Published(4, 0, 1.0, (), places)
    events: Any = SimpleNamespace(rejects=lambda *_: found)
    examples = outcomes._examples(events, "loans", "events", published)
    assert account(FILE, records=1, examples=examples).splitlines()[2:4] == [
        "  2 missing_field: `income` is missing (row 2)",
        "  1 missing_field: `sex` is missing (row 1)",
    ]


def test_two_faults_of_one_field_are_told_apart() -> None:
    """A day that does not exist, and one that lies ahead of the clock; in what is no JSON, each place is."""
    places = Places()
    for row in range(1, 5):
        places.add(0, row, row)
    faults = [("bad_timestamp", "at", "`at` is no time"), ("bad_timestamp", "at", "`at` lies ahead")]
    faults += [("not_json", None, "line 1 column 3"), ("not_json", None, "line 1 column 4")]
    found = [
        {"reason": reason, "field": field, "detail": detail, "value": None, "partition": 0, "offset": offset}
        for offset, (reason, field, detail) in enumerate(faults, 1)
    ]
    events: Any = SimpleNamespace(rejects=lambda *_: [("events", one) for one in found])
    examples = outcomes._examples(events, "loans", "events", Published(4, 0, 1.0, (), places))
    assert account(FILE, examples=examples).splitlines()[2:5] == [
        "  2 not_json: line 1 column 3 (row 3)",
        "  1 bad_timestamp: `at` is no time (row 1)",
        "  1 bad_timestamp: `at` lies ahead (row 2)",
    ]


def test_names_that_nobody_declared_are_one_kind_and_other_kinds_are_ten_at_most() -> None:
    def reject(reason: str, field: str, offset: int) -> Any:
        said = {"reason": reason, "field": field, "value": None, "detail": f"`{field}`"}
        return said | {"partition": 0, "offset": offset}

    places = Places()
    for row in range(1, 101):
        places.add(0, row, row)
    found = [("events", reject("unknown_field", f"x{n}", n)) for n in range(1, 41)]
    found += [("events", reject("wrong_type", f"f{n % 20}", n)) for n in range(41, 101)]
    events: Any = SimpleNamespace(rejects=lambda *_: found)
    examples = outcomes._examples(events, "loans", "events", Published(100, 0, 1.0, (), places))
    assert len(examples) == 21
    told = account(FILE, examples=examples).splitlines()
    assert "  40 unknown_field: `x1` (row 1)" in told
    assert len([line for line in told if " wrong_type: " in line]) == 9
    assert "  33 other wrong_type" in told


@pytest.mark.parametrize(
    ("event", "shown"),
    [(b'{"row": "H-7"}', "H-7"), (b'{"row": 7}', "7"), (b"{", ""), (b"[]", ""), (b"{}", "")],
)
def test_a_reject_is_found_in_the_file_by_the_id_of_its_event(event: bytes, shown: str) -> None:
    reject: Any = {"original": b64encode(event).decode()}
    assert event_id(reject, read(FILE).sources["events"]) == shown


def test_a_row_is_found_by_the_place_of_its_event() -> None:
    places = Places()
    for row, (partition, offset) in enumerate([(1, 40), (0, 7), (1, 42), (1, 43)], 1):
        places.add(partition, offset, row)
    assert [places.row(1, offset) for offset in (39, 40, 41, 42, 43, 44)] == [None, 1, None, 3, 4, None]
    assert (places.row(0, 7), places.row(2, 7)) == (2, None)
    assert places.ends() == [(0, 8), (1, 44)]


def test_who_asks_for_an_unknown_row_is_told_how_ids_look() -> None:
    def asked(text: str, error: NotFound) -> str:
        penstock: Any = SimpleNamespace(pipelines=SimpleNamespace(spec=lambda _: read(text)))
        return str(_unnamed(penstock, "loans", error))

    unknown = NotFound("loans has no person '1'")
    assert "as in `2142be18e5286c7b5902-1`, and says that of a file's first row" in asked(FILE, unknown)
    assert "`17-3f9c2a1b`" in asked(NUMBERED, unknown)
    assert "An ID is a value of `row` in what was published" in asked(OF_ITS_OWN, unknown)
    known = NotFound("no model", remedy="Train one")
    assert asked(FILE, known) == asked(OF_ITS_OWN, known) == str(known)


# -- records and lineage of predictions -------------------------------------------------------------

RECORD: Any = {
    "id": "p1",
    "time": "2026-11-30T12:00:00Z",
    "protocol": "grpc",
    "status": "OK",
    "rows": 1,
    "inputs": {"income": [2500.0], "job": [None]},
    "probabilities": [[0.25, 0.75]],
    "values": None,
    "decisions": ["bad"],
    "events": {"people": "e7"},
    "warnings": ["`job` is missing, which no training row was"],
    "undecoded": None,
}


def test_a_trace_shows_what_was_asked_and_answered() -> None:
    run = trainer.Run(run_id="01R", reason="manual")
    kept = Lineage(prediction=RECORD, events=(features.Record(id="e7", entity="a1"),), run=run)
    assert steps(kept)[:4] == [
        "prediction p1  2026-11-30T12:00:00Z  bad  over grpc",
        f"  inputs: income 2500, job {EMPTY}",
        "  probabilities: 0.2500, 0.7500",
        "  warning: `job` is missing, which no training row was",
    ]


@pytest.mark.parametrize(("verdict", "said"), [("fail", True), ("pass", False)])
def test_a_trace_names_who_took_on_what_did_not_pass(verdict: str, said: bool) -> None:
    """Another version's review, and this one's that is still open, are none of its decision."""
    digest = "sha256:" + "3f9c" * 16
    reviews = [audit.Review(digest=digest, state="open"), audit.Review(digest="sha256:0", state="approved")]
    decided_at = {"seconds": 1_796_000_000}
    reviews.append(
        audit.Review(digest=digest, state="approved", decided_by="ada", why="fair", decided_at=decided_at)
    )
    version = registry.Version(pipeline="loans", digest=digest, run_id="01R", version_json="{}")
    platform: Any = SimpleNamespace(
        models=SimpleNamespace(get=lambda _: version),
        audits=SimpleNamespace(
            get=lambda _: audit.Audit(audit_id="01A", verdict=verdict), reviews=lambda *_, **__: reviews
        ),
        runs=SimpleNamespace(get=lambda _: trainer.Run(run_id="01R", reason="manual")),
    )
    made: Any = SimpleNamespace(model_validate_json=lambda _: None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lineage, "ModelVersion", made)
        told = steps(Tracing(platform).trace("loans@3f9c"))
    line = "  approved by ada (a typed name, not an identity), 2026-11-30 00:53:20: fair"
    assert (line in told) == said, told


class _Lake:
    """A feature store that holds these events of `people`, published at this time, and knows no other
    source.
    """

    def __init__(self, *ids: str, ingested: str = "2026-11-30T11:59:59.5Z") -> None:
        self._ids = ids
        self._ingested = Timestamp()
        self._ingested.FromJsonString(ingested)

    def records(self, _pipeline: str, source: str, *, id: str) -> list[features.Record]:  # noqa: A002
        if source != "people":
            raise NotFound(f"no source {source}")
        found = features.Record(id=id, entity="a1", ingested=self._ingested)
        return [found] if id in self._ids else []


OF_TWO = RECORD | {"events": {"people": "e7", "past": "e3"}, "intervals": [[0.1, 0.2]], "confidence": [0.5]}


@pytest.mark.parametrize(
    ("record", "lake", "gone"),
    [
        (RECORD, _Lake("e7"), ""),
        (RECORD | {"events": None}, _Lake(), ""),  # asked by its fields
        (RECORD, _Lake(), "people"),
        (RECORD, _Lake("e7", ingested="2026-12-08T09:00:00Z"), "people"),  # its id once more, of another
        (RECORD | {"time": "noon"}, _Lake("e7"), "people"),
        (OF_TWO, _Lake("e7"), "past"),
        (OF_TWO, _Lake(), "people, past"),
    ],
)
def test_who_is_erased_stands_in_no_form_of_a_prediction(
    record: Any,
    lake: Any,
    gone: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = record | {"pipeline": "loans", "digest": "sha256:3f9c", "generation": 1, "milliseconds": 1.5}
    record |= {"traceparent": None}
    message = SimpleNamespace(value=lambda: json.dumps(record).encode(), key=lambda: b"p1")
    topic: Any = SimpleNamespace(read=lambda _: iter([message]))
    pipelines = SimpleNamespace(list=lambda: [SimpleNamespace(name="loans")])
    platform: Any = SimpleNamespace(features=lake, events=topic, pipelines=pipelines)
    tracing = Tracing(platform)
    platform.lineage, platform.predictions = tracing, Predictions(Connection("127.0.0.1:1"), topic, lake)
    run = trainer.Run(run_id="01R", reason="manual")
    monkeypatch.setattr(tracing, "_of_version", lambda _: Lineage(run=run))
    monkeypatch.setattr(cli, "Penstock", lambda: nullcontext(platform))
    forms = [json.dumps(tracing.prediction("p1"))]
    for as_json in (False, True):
        for verb, asked in ((cli.trace, "f386fce6-9df8-4754-b2fc-c0829fcf9368"), (cli.predictions, "loans")):
            message.key = asked.encode
            verb(asked, as_json_=as_json)
            forms.append(capsys.readouterr().out)
    for form in forms:
        told = [said for said in ("2500", "0.75", "bad", "e3", "missing", "0.1, 0.2") if said in form]
        assert bool(told) == (not gone), form
    for form in (forms[0], forms[1], forms[3], forms[4]):
        why = f"an event of source {gone} behind it is no more, erased or older than"
        assert (why in form) == bool(gone), form


@pytest.mark.parametrize(("more", "shown"), [({}, False), ({"confidence": [0.4]}, True)])
def test_a_column_that_no_record_fills_is_left_out(
    more: dict[str, Any], shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = SimpleNamespace(recorded=lambda *_, **__: [RECORD | more])
    asked: Any = nullcontext(SimpleNamespace(predictions=recorded))
    monkeypatch.setattr(cli, "Penstock", lambda: asked)
    cli.predictions("loans", limit=20)
    assert ("confidence" in capsys.readouterr().out) == shown
