"""An event's bytes and key: the row as it is, keyed as ingest will read it."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client import ClientSettings, Penstock
from penstock.client.declared import Row
from penstock.client.events import _message
from penstock.contracts.connection import KafkaSettings
from penstock.contracts.dataplane import read_json
from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.pipeline import Source, SourceField

SOURCE = Source(entity="guest", id="id", timestamp="at", fields={"x": SourceField(type="number")})


def message(row: Row | bytes, source: Source = SOURCE) -> tuple[bytes, bytes | None]:
    return _message(row, source, "who")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (Decimal("Infinity"), "Infinity"),
        (Decimal("0.5"), "0.5"),
        (2**70, str(2**70)),
        ("\ud800", '"\\ud800"'),
        (None, "null"),
    ],
)
def test_a_row_is_published_as_it_is(value: object, written: str) -> None:
    said, key = message({"who": "g1", "x": value, "y": None})
    assert said == f'{{"who":"g1","x":{written},"y":null}}'.encode()
    assert key == b"g1"


@pytest.mark.parametrize(
    "line",
    [
        b'{"who": "g1", "x": 1}',
        b'{"who": "g1", "x": NaN}',
        b'{"x": -Infinity, "who": "g1"}',
        b'{"who": "g1", "x": 1e999}',
        b'\xef\xbb\xbf{"who": "g1", "x": 1}',
    ],
)
def test_repeats_go_to_one_partition_however_they_are_written(line: bytes) -> None:
    assert message(line) == (line, b"g1")


@pytest.mark.parametrize(
    "line", [b"[1]", b'{"who":', b'{"who": null}', b"", b"\x00\x00", b'{"who": "\\ud800"}']
)
def test_bytes_without_an_entity_have_no_key(line: bytes) -> None:
    assert message(line) == (line, None)


def test_a_key_that_is_neither_text_nor_number_is_that_of_its_json_form() -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert message({"who": at})[1] == b"2026-01-31T12:00:00+00:00"


def test_a_row_without_a_json_form_is_refused() -> None:
    with pytest.raises(Invalid, match="a row has no JSON form: a value of type object"):
        message({"who": "g1", "x": object()})


def test_a_row_is_not_written_in_a_format_that_its_source_does_not_read() -> None:
    other = SOURCE.model_copy(update={"format": SimpleNamespace(type="csv")})
    with pytest.raises(Invalid, match="rows are written as JSON, and the source reads csv"):
        message({"who": "g1"}, other)


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(st.sampled_from(["who", "x", "y"]), JSON))
def test_what_json_writes_of_a_row_is_what_the_client_publishes_and_keys_by(row: dict[str, object]) -> None:
    said, key = message(row)
    assert str(json.loads(said)) == str(row)
    entity = row.get("who")
    if isinstance(entity, str) or (isinstance(entity, int) and -(2**63) <= entity < 2**64):
        assert key == str(read_json(said)["who"]).encode()


def test_what_a_client_of_kafka_tries_again_is_no_output(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.client.events.TIMEOUT_S", 1.0)
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with Penstock(ClientSettings(kafka=nobody)) as penstock, pytest.raises(Unavailable):
        list(penstock.events.read("some"))
    assert capfd.readouterr() == ("", "")
