"""What ingest accepts, every later part of the platform holds: each value goes from its event to lake,
online store, training set, training, prediction, record and erasure, or is a reject that says why.

Each service's own code, in one process; no broker, which carries bytes as they are.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import struct
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, service_pb2

from penstock.client.events import _message
from penstock.contracts.dataplane import EARLIEST, LATEST, MAX_NUMBER
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rules
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.kafka.messages import Batch, Committed, Message, Partition, Produced
from penstock.runtime.store import Store
from penstock.serving.model import Layout
from penstock.serving.protocol.checks import EVENTS
from penstock.serving.records import encoded
from penstock_feature_store import names
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake.batches import Received, source_schema, table_of
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.online.repository import apply
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.store import PipelineRow, TrainingSetRow
from penstock_feature_store.training.join import Order, build
from penstock_feature_store.training.splits import PARTS
from penstock_inference.record.origin import Origin, Origins
from penstock_inference.record.predictions import read_line
from penstock_ingest.history import Restored
from penstock_ingest.intake import Intake
from penstock_ingest.profile import decode_profile
from penstock_ingest.seen import SeenIds

pytestmark = pytest.mark.process("unhurried")  # torch takes seconds to load

Json = dict[str, Any]

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PIPELINE = Pipeline.model_validate(
    {
        "version": 1,
        "pipeline": "odd",
        "entities": {"unit": {"key": "unit"}},
        "sources": {
            "seen": {
                "entity": "unit",
                "id": "event",
                "timestamp": "at",
                "at_most_ahead": "36500d",
                "fields": {
                    "x": {"type": "number"},
                    "kind": {"type": "category"},
                    "said": {"type": "text", "max_length": 1_000_000},
                    "ok": {"type": "boolean"},
                    "good": {"type": "boolean"},
                },
            }
        },
        "targets": {"good": {"from": "seen.good", "type": "binary"}},
        "training": {"max_age": "36500d"},
        "split": {"by": "unit"},
        "trainer": {"epochs": 2, "early_stopping": None, "batch_size": 32},
    }
)
SEEN = PIPELINE.sources["seen"]
RULES = Rules(PIPELINE, "seen")
FIELDS = ("x", "kind", "said", "ok")

TEXTS = (
    *("", " ", "\0", "a\0b", "\ud800", "\udfff x", "\ufeffbom", "e\u0301 \u00e9", "\u202eright to left"),
    *(
        "\u2028\u2029",
        "\uffff",
        "👩\u200d👩\u200d👧",
        "\x1b[2J",
        "'; DROP TABLE x; --",
        "$x^{$",
        "null",
        "nan",
    ),
    *("true", "a b", "x" * 1000, "x" * 1001, "ж" * 1000),
)
NUMBERS = (
    *(1.7976931348623157e308, -1e308, MAX_NUMBER, -MAX_NUMBER, math.nextafter(MAX_NUMBER, math.inf), 1e200),
    *(
        5e-324,
        -0.0,
        2**53,
        2**53 + 1,
        2**63,
        2**64,
        18446744073709551621,
        math.nan,
        math.inf,
        42.0,
        True,
        None,
    ),
)
TIMES = (
    *(
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "1969-12-31T23:59:59.999999Z",
        "2016-12-31T23:59:60Z",
    ),
    *(EARLIEST.isoformat(), LATEST.isoformat(), (NOW + timedelta(days=36500)).isoformat()),
    *(0, -0.0, -1e9, 1e12, 1e308),
)
LISTED: list[Json] = [
    *({"event": value} for value in (*TEXTS, *NUMBERS)),
    *({"unit": value} for value in (*TEXTS, *NUMBERS)),
    *({"at": time} for time in TIMES),
    *({"x": number} for number in NUMBERS),
    *({"kind": text} for text in (*TEXTS, "x" * 10_001)),
    *({"said": text} for text in (*TEXTS, "word " * 40_000, "x" * 250_000, "x" * 1_000_000)),
]
ODD = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "event": st.text(min_size=1) | st.integers(),
            "unit": st.text(min_size=1) | st.integers(),
            "at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat) | st.floats(-1e11, 1e11),
            "x": st.floats() | st.integers(),
            "kind": st.text(),
            "said": st.text(st.characters(), max_size=200),
            "ok": st.booleans(),
        },
    ),
    min_size=1,
    max_size=30,
)


def events(odd: Sequence[Json]) -> list[bytes]:
    draw = random.Random(5)
    ordinary = [
        {"x": draw.random(), "kind": draw.choice("ab"), "said": draw.choice(["hm", "well"]), "ok": True}
        for _ in range(120)
    ]
    made = [
        {"event": f"e{number}", "unit": f"u{number}", "at": NOW.isoformat(), "good": number % 2 == 0} | row
        for number, row in enumerate([*ordinary, *odd])
    ]
    return [json.dumps(event).encode() for event in made]


class Fresh:
    def restore(self, partition: int, *, records: int, window_ms: int, capacity: int, now: int) -> Restored:
        return Restored(SeenIds(window_ms, capacity), {})


def ingested(values: Sequence[bytes]) -> list[bytes]:
    """Records; what else there is, is a reject with a reason, and no event is lost."""
    intake = Intake(
        PIPELINE, "seen", restores=Fresh(), clock=lambda: round(NOW.timestamp() * 1000), capacity=1000
    )
    intake.assigned({0: Committed(-2, "")})
    messages = [Message(offset, b"k", value, 0, ()) for offset, value in enumerate(values)]
    produced: list[Produced] = []
    intake.process(Batch(Partition(intake.events_topic, 0), messages, len(values)), produced.extend)
    rejects = [orjson.loads(one.value or b"") for one in produced if one.topic.endswith("rejects.v1")]
    assert all(reject["reason"] and reject["detail"] for reject in rejects)
    (seen,) = (one for one in produced if one.topic.endswith("seen.v1"))
    moments = decode_profile(dict(seen.headers or ())["profile"])["x"].moments
    assert moments is not None
    assert all(map(math.isfinite, moments))
    return [one.value or b"" for one in produced if one.topic.endswith("records.v1")]


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="accepted-"))
    yield made
    shutil.rmtree(made)


@given(odd=ODD)
@example(odd=LISTED)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_ingest_accepts_every_later_part_holds(folder: Path, odd: list[Json]) -> None:
    home = Path(tempfile.mkdtemp(dir=folder))
    values = ingested(events(odd))
    records = {record["id"]: record for record in map(orjson.loads, values)}
    lake = in_the_lake(home, values, records)
    with_online(home, lake, records)
    trained = in_a_training_set(home, records)
    predicted(home, trained, list(records.values()))
    erased(home, lake, trained, records)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("u1")


@given(row=st.dictionaries(st.sampled_from(["event", "unit", "x", "kind"]), VALUES), mark=st.booleans())
def test_the_client_keys_an_event_by_the_entity_that_ingest_reads(row: Json, mark: bool) -> None:
    row = {"event": "e1", "unit": "u1", "at": NOW.isoformat()} | row
    line = ("\ufeff" * mark + json.dumps(row, ensure_ascii=True)).encode()
    for published, key in (_message(line, SEEN, "unit"), _message(row, SEEN, "unit")):
        answer = RULES.check(published)
        if isinstance(answer, Accepted):
            assert key == answer.entity.encode()


def in_the_lake(home: Path, values: Sequence[bytes], records: Mapping[str, Json]) -> Lake:
    lake = Lake(home / "lake")
    received = [Received(offset, 1_772_323_200_000, value) for offset, value in enumerate(values)]
    source = lake.source("odd", "seen")
    source.append(0, 0, len(values), table_of(received, source_schema(SEEN)))
    rows = source.read().to_pylist()
    assert len(rows) == len(records)
    for row in rows:
        record = records[row[names.ID]]
        assert row[names.ENTITY] == record["entity"]
        assert row[names.TIME] == datetime.fromisoformat(record["time"])
        assert {name: row[names.column_of(name)] for name in record["fields"]} == record["fields"]
    return lake


def with_online(home: Path, lake: Lake, records: Mapping[str, Json]) -> None:
    stores = SqliteOnlineStores()
    apply(PIPELINE, home / "feast" / "odd", home / "lake", stores)
    newest = {
        record["entity"]: record
        for record in sorted(records.values(), key=lambda r: (r["time"], r["offset"]))
    }
    with closing(stores.open(home / "feast" / "odd", PIPELINE)) as store:
        store.write("seen", lake.source("odd", "seen").read())
        for record, row in zip(newest.values(), store.read("seen", list(newest), FIELDS, NOW), strict=True):
            if row.status == "expired":
                assert NOW - datetime.fromisoformat(record["time"]) > PIPELINE.training.max_age
                continue
            assert row.origin is not None
            assert row.origin.event_id == record["id"]
            assert row.values == {name: record["fields"][name] for name in FIELDS}


def in_a_training_set(home: Path, records: Mapping[str, Json]) -> Any:
    made = home / "set"
    (made / "lake" / "seen").mkdir(parents=True)
    for file in (home / "lake" / "odd" / "seen").glob("*.parquet"):
        shutil.copy(file, made / "lake" / "seen")
    order = Order(
        id="set", pipeline=PIPELINE, folder=made, artifacts=f"file://{home}/artifacts", created_at=NOW
    )
    training_set = build(order)
    artifacts = Artifacts(order.artifacts)
    rows = [
        row
        for part in PARTS
        for row in pq.read_table(pa.BufferReader(artifacts.read(getattr(training_set, part)))).to_pylist()
    ]
    assert len(rows) == len(records)
    newest: dict[tuple[str, str], Json] = {}
    for record in sorted(records.values(), key=lambda record: record["offset"]):
        newest[record["entity"], record["time"]] = record
    for row in rows:
        record = records[row[names.ID]]
        seen = newest[record["entity"], record["time"]]["fields"]
        assert {name: row[name] for name in ("x", "kind", "said")} == {
            name: seen[name] for name in ("x", "kind", "said")
        }
    return training_set


def predicted(home: Path, training_set: Any, records: Sequence[Json]) -> None:
    from penstock.modelkit import build as modelkit
    from penstock.modelkit.graph import Runner
    from penstock.packages.format import open_package
    from penstock_trainer.packaging import package

    artifacts = Artifacts(f"file://{home}/artifacts")
    train = artifacts.fetch(training_set.train, home / "train.parquet")
    validation = artifacts.fetch(training_set.validation, home / "validation.parquet")
    built = modelkit.build(PIPELINE, train, validation)
    assert all(map(math.isfinite, built.metrics.values()))
    digest = package(home / "package", PIPELINE, training_set, built, run_id="01A", pipeline_number=1)
    open_package(home / "package", digest).check()

    inputs = built.signature.inputs
    numbers = np.array([[float("nan") if r["fields"]["x"] is None else r["fields"]["x"]] for r in records])
    strings = np.array([[text(r["fields"][name]) for name in inputs.strings] for r in records], dtype=object)
    answers = Runner(built.model)(numbers, strings)
    assert np.isfinite(answers["probabilities"]).all()
    assert set(answers["decision"].ravel().tolist()) <= {"true", "false"}
    layout = Layout(digest, 1, inputs.numbers, inputs.strings, frozenset({"ok"}))
    origins = Origins(home)
    for at, record in enumerate(records):
        line = logged(
            numbers[at : at + 1], strings[at : at + 1], origins.seal(Origin({"seen": record["id"]}))
        )
        _, prediction = read_line(line, lambda *_: layout, origins)
        assert prediction["undecoded"] is None
        assert prediction["events"] == {"seen": record["id"]}
        assert prediction["inputs"] == {
            name: [record["fields"][name]] for name in (*inputs.numbers, *inputs.strings)
        }
        assert orjson.loads(encoded(prediction)) == prediction


def text(value: str | bool | None) -> str:
    return {None: "", True: "true", False: "false"}.get(value) if not isinstance(value, str) else value  # type: ignore[return-value]


def logged(numbers: Any, strings: Any, events: str) -> bytes:
    """A line of the door's log."""
    request = service_pb2.ModelInferRequest(model_name="odd")
    request.parameters[EVENTS].string_param = events
    encoded_strings = np.array([[value.encode() for value in row] for row in strings], dtype=object)
    for name, array, datatype in (("numbers", numbers, "FP64"), ("strings", encoded_strings, "BYTES")):
        made = InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array)
        request.inputs.append(made._get_tensor())
        request.raw_input_contents.append(made._get_content())
    message = request.SerializeToString()
    answer = service_pb2.ModelInferResponse(model_name="odd", model_version="1").SerializeToString()
    return orjson.dumps(
        {
            "grpc_status": 0,
            "id": "4d3d9bd8-f64b-4b87-ac87-553d87301f69",
            "milliseconds": 2.125,
            "protocol": "grpc",
            "path": "/inference.GRPCInferenceService/ModelInfer",
            "request": b64encode(struct.pack(">BI", 0, len(message)) + message).decode(),
            "request_bytes": len(message) + 5,
            "request_encoding": None,
            "request_header_length": None,
            "response": b64encode(struct.pack(">BI", 0, len(answer)) + answer).decode(),
            "response_bytes": len(answer) + 5,
            "response_encoding": None,
            "response_header_length": None,
            "status": 200,
            "time": "2026-03-01T00:00:00.000000Z",
            "traceparent": None,
        }
    )


def erased(home: Path, lake: Lake, training_set: Any, records: Mapping[str, Json]) -> None:
    """Each odd entity, by its name."""
    rows = lake.source("odd", "seen").count()
    with closing(
        Store.open(f"sqlite:///{home}/store.db", migrations="penstock_feature_store.migrations")
    ) as store:
        with store.transaction() as effect:
            effect.session.add(PipelineRow(name="odd", number=1, spec=PIPELINE))
            effect.session.add(
                TrainingSetRow(id="set", pipeline="odd", number=1, body=training_set, created_at=NOW)
            )
        artifacts = Artifacts(f"file://{home}/artifacts")
        keys = Keys(home / "keys")
        keys.ensure()
        erasures = Erasures(
            store, lake, artifacts, SqliteOnlineStores(), home / "feast", home / "erasures", keys
        )
        for entity in {record["entity"] for record in records.values()} - {
            f"u{number}" for number in range(500)
        }:
            gone = sum(record["entity"] == entity for record in records.values())
            assert erasures.erase("odd", entity) == (gone, True, gone)
            rows -= gone
            assert lake.source("odd", "seen").count() == rows
