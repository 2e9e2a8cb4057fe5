"""Rows that are too old to answer are told at each step from the file to the answer."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.client.ages import Ages, advice, ages_of
from penstock.client.cli import events as cli
from penstock.client.cli.main import app
from penstock.client.events import Published
from penstock.client.outcomes import Outcome
from penstock.contracts.load import read
from penstock.ingest.v1 import ingest_pb2 as ingest

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
OLD, NEW = "2017-03-05T08:00:00", (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%S")
TOO_OLD = "older than `training.max_age`, 365d"

runner = CliRunner()


def stops(folder: Path, times: list[str]) -> Path:
    """A table of stops at these times, in turn."""
    rows = (f"s{n},{times[n % len(times)]},{n * 7 % 30},{'ny'[n % 3 == 0]}" for n in range(60))
    path = folder / "stops.csv"
    path.write_text("\n".join(["stop_id,when_at,speed,searched", *rows]) + "\n")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def init(*times: str) -> tuple[str, str]:
        data, out = stops(tmp_path, list(times)), tmp_path / "stops.yaml"
        done = runner.invoke(app, ["init", "--from", str(data), "--to", str(out)])
        assert done.exit_code == 0, done.output
        return out.read_text(), done.output

    return init


@pytest.mark.parametrize(
    ("time", "older"),
    [
        ("2025-11-29T23:59:59", True),
        ("2025-11-30T00:00:00+00:00", False),
        ("20170305", True),
        (1488700800, True),
        (datetime(2017, 3, 5, tzinfo=UTC).date(), True),
        ("2017-13-45", False),
        (1e308, False),
        (None, False),
    ],
)
def test_a_row_is_as_old_as_its_day(time: object, older: bool) -> None:
    found = ages_of([time], NOW)
    assert (found.older, bool(found.said)) == (older, older)


def test_half_of_the_rows_may_be_old() -> None:
    assert not ages_of([OLD, "2026-11-01"], NOW).said
    assert ages_of([OLD, OLD, "2026-11-01"], NOW).said.startswith(
        f"67% of the rows are {TOO_OLD} (the newest is of 2026-11-01)"
    )
    assert not ages_of([], NOW).said


def test_what_is_enough_is_so_a_year_from_now() -> None:
    assert ages_of([OLD], NOW).enough == f"{11 * 365}d"
    assert ages_of(["1850-01-01"], NOW).enough == "36500d", "the longest that a file may say"


def test_init_lets_an_old_file_answer_and_says_so(run: Any) -> None:
    text, said = run(OLD)
    assert read(text).training.max_age > datetime.now(UTC) - datetime(2016, 3, 6, tzinfo=UTC)
    assert f"# All rows are {TOO_OLD} (the newest is of 2017-03-05)" in text
    assert f"old       all rows are {TOO_OLD}" in said


def test_init_leaves_the_age_where_some_rows_are_new_and_says_what_to_write(run: Any) -> None:
    text, said = run(OLD, OLD, NEW)
    assert read(text).training.max_age == timedelta(days=365)
    (line,) = [line for line in text.splitlines() if "To let them" in line]
    wide = read(text + line.partition(":  ")[2] + "\n").training.max_age
    assert wide > datetime.now(UTC) - datetime(2016, 3, 6, tzinfo=UTC)
    assert "old       67% of the rows" in said


def test_a_file_of_this_year_is_no_matter(run: Any) -> None:
    text, said = run(NEW)
    assert ("max_age" in text, "old   " in said) == (False, False)


def test_publish_says_that_what_it_sent_answers_nobody(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read(
        "\n".join(line for line in run(OLD)[0].splitlines() if "max_age" not in line and line != "training:")
    )

    def publish(_pipeline: str, _source: str, rows: Any, **_: object) -> Published:
        return Published(len(list(rows)), 0, 1.0, ())

    def outcome(_events: object, _pipeline: str, _source: str, published: Published, *_: object) -> Outcome:
        return Outcome(published.events, published.events, 0, {}, 0, ())

    events = SimpleNamespace(counts=lambda *_: ingest.GetCountsResponse(), publish=publish)
    client = SimpleNamespace(pipelines=SimpleNamespace(spec=lambda _: spec), events=events)
    monkeypatch.setattr(cli, "Penstock", lambda: nullcontext(client))
    monkeypatch.setattr(cli, "outcome", outcome)
    for times, old in (([OLD], 60), ([NEW], 0)):
        command = ["publish", "stops", "events", str(stops(tmp_path, times))]
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
        told = (f"all rows are {TOO_OLD}" in done.output, "training: {max_age: " in done.output)
        assert told == (old > 0, old > 0)
        assert json.loads(runner.invoke(app, [*command, "--json"]).stdout)["older_than_max_age"] == old


def test_validate_warns_of_it(tmp_path: Path, run: Any) -> None:
    text, _ = run(NEW)
    (tmp_path / "stops.yaml").write_text(text)
    command = ["validate", str(tmp_path / "stops.yaml"), "--against"]
    assert "warning" not in runner.invoke(app, [*command, str(stops(tmp_path, [NEW]))]).output
    done = runner.invoke(app, [*command, str(stops(tmp_path, [OLD]))])
    assert done.exit_code == 0, done.output
    assert f"stops.csv: all rows are {TOO_OLD}" in done.output


def test_who_publishes_labels_alone_is_told_nothing() -> None:
    labels = Ages(timedelta(days=365), NOW)
    labels.add(OLD)
    assert labels.said
    text = (Path(__file__).parents[3] / "examples/credit-risk/pipeline.yaml").read_text()
    found = {source: list(advice(labels, read(text), source)) for source in read(text).sources}
    assert sorted(map(len, found.values())) == [0, 1]
