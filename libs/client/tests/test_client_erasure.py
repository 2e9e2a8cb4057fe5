"""erase, and what cannot be undone: what is asked before and said after."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from penstock.client.cli.main import app
from penstock.contracts.errors import Unavailable
from penstock.contracts.load import read
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge
from penstock.feature_store.v1 import feature_store_pb2 as feature_store

runner = CliRunner()
LOANS = """\
version: 1
pipeline: loans
entities: {person: {key: row}}
sources:
  people:
    entity: person
    id: row
    timestamp: at
    retention: 30d
    fields:
      income: {type: number}
      defaulted: {type: boolean}
targets:
  default: {from: people.defaulted, type: binary}
"""


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "127.0.0.1:1")


def _erasing(
    monkeypatch: pytest.MonkeyPatch,
    erased: feature_store.EraseEntityResponse,
    *left: list[str],
    spec: Callable[[str], object] = lambda _: read(LOANS),
) -> None:
    """Has `erase` find these rows, at a platform whose sites have not done it yet when it looks."""
    asked, waiting = edge.EraseAtSitesResponse(sites=left[0] if left else []), iter(left)
    platform = SimpleNamespace(
        sites=SimpleNamespace(erase=lambda *_: asked, waiting=lambda _: next(waiting, [])),
        features=SimpleNamespace(erase=lambda *_: erased),
        pipelines=SimpleNamespace(spec=spec),
    )
    monkeypatch.setattr("penstock.client.cli.erasure.Penstock", lambda: nullcontext(platform))


def test_who_waits_for_sites_to_erase_somebody_hears_which_have_not(monkeypatch: pytest.MonkeyPatch) -> None:
    left = ["branch-1", "branch-2"], ["branch-1"], ["branch-1"], ["branch-1"]
    _erasing(monkeypatch, feature_store.EraseEntityResponse(lake_rows=2), *left)
    monkeypatch.setattr("penstock.client.cli.erasure.ERASED_WITHIN_S", 0)
    asked = ["erase", "loans", "p3", "--yes"]
    told = runner.invoke(app, asked)
    assert told.exit_code == 0
    assert "to be erased at branch-1, branch-2, when it is reached next" in told.output
    waited = runner.invoke(app, [*asked, "--wait"])
    assert waited.exit_code == 1
    assert "to be erased at branch-1, when" in waited.output
    monkeypatch.setattr("penstock.client.cli.erasure.ERASED_WITHIN_S", 60)
    monkeypatch.setattr("penstock.client.cli.following.time.sleep", lambda _: None)
    done = runner.invoke(app, [*asked, "--wait"])
    assert done.exit_code == 0
    assert "to be erased" not in done.output


def test_who_erases_somebody_hears_which_topic_keeps_the_person_and_until_when(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _erasing(monkeypatch, feature_store.EraseEntityResponse(lake_rows=1, training_set_rows=4, online=True))
    done = runner.invoke(app, ["erase", "loans", "p3", "--yes"])
    assert done.exit_code == 0
    said = done.output.splitlines()
    assert said[0] == "removed 1 lake row, 4 training-set rows, its online features"
    within = {days: (datetime.now(UTC) + timedelta(days=days)).date().isoformat() for days in (30, 90)}
    assert [line.strip() for line in said[2:]] == [
        *(f"{within[30]}  loans.people.{kind}.v1" for kind in ("events", "records", "rejects")),
        f"{within[90]}  loans.predictions.v1, inputs and answers",
    ]
    told = json.loads(runner.invoke(app, ["erase", "loans", "p3", "--yes", "--json"]).output)
    assert told["kept"]["loans.predictions.v1"] == within[90]


def test_nobody_waits_for_the_registry_to_be_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise Unavailable("no healthy upstream")

    _erasing(monkeypatch, feature_store.EraseEntityResponse(lake_rows=2), spec=away)
    done = runner.invoke(app, ["erase", "loans", "p3", "--yes"])
    assert done.exit_code == 0, done.output
    assert "removed 2 lake rows" in done.output
    assert "topics keep what they have of it until their retention ends; the registry" in done.output
    told = json.loads(runner.invoke(app, ["erase", "loans", "p3", "--yes", "--json"]).output)
    assert told["kept"] is None


def test_an_id_of_nobody_is_no_erasure(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = feature_store.EraseEntityResponse()
    _erasing(monkeypatch, nothing)
    done = runner.invoke(app, ["erase", "loans", "p99", "--yes"])
    assert done.exit_code == 1
    assert "no rows of `p99` were there" in done.output
    assert "removed" not in done.output
    _erasing(monkeypatch, nothing, ["branch-1"])  # who is in a site's spool alone
    assert runner.invoke(app, ["erase", "loans", "p99", "--yes"]).exit_code == 0


@pytest.mark.parametrize("verb", [["erase", "loans", "p3"], ["delete", "loans"]])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_what_cannot_be_undone_is_not_begun_where_nobody_can_be_asked(
    verb: list[str], as_json: list[str]
) -> None:
    done = runner.invoke(app, [*verb, *as_json])
    assert done.exit_code == 2
    assert "say --yes" in done.stderr
