"""Situations of a first afternoon: what each verb says of them, and its exit code."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.client.cli import audits, events, models, output, reviews, stack, training
from penstock.client.cli.main import app
from penstock.client.events import Published
from penstock.client.outcomes import Outcome
from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.load import read
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.ingest.v1 import ingest_pb2 as ingest
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.tuner.v1 import tuner_pb2 as tuner

LOANS = read("""\
version: 1
pipeline: loans
entities: {loan: {key: id}}
sources:
  events: {entity: loan, id: id, timestamp: at, fields: {income: {type: number}, bad: {type: boolean}}}
targets: {bad: {from: events.bad, type: binary}}
""")


def platform(monkeypatch: pytest.MonkeyPatch, verbs: Any, **parts: Any) -> None:
    """Puts a platform of these parts in the place of the one that `verbs` would call."""
    answers = SimpleNamespace(**{"pipelines": SimpleNamespace(spec=lambda _: LOANS)} | parts)

    def penstock() -> AbstractContextManager[Any]:
        return nullcontext(answers)

    monkeypatch.setattr(verbs, "Penstock", penstock)


@pytest.mark.parametrize(
    ("records", "duplicates", "rejected", "before", "options", "code"),
    [
        (95, 0, 5, None, [], 0),
        (94, 0, 6, None, [], 1),
        (94, 0, 6, None, ["--max-rejects", "0.1"], 0),
        (0, 95, 5, 0.0, [], 0),
        (0, 95, 5, 7.0, [], 1),
        (1, 99, 0, 7.0, [], 0),
        (0, 0, 100, None, ["--max-rejects", "0.99"], 1),
        (100, 0, 0, None, ["--max-rejects", "0"], 0),
    ],
)
def test_publish_fails_where_more_than_is_allowed_was_rejected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    records: int,
    duplicates: int,
    rejected: int,
    before: float | None,
    options: list[str],
    code: int,
) -> None:
    """`before`: income of row 0 in the lake, if it came before."""

    def records_of(*_: object, id: str) -> list[features.Record]:  # noqa: A002
        kept = features.Record(id=id, fields={"income": features.Value(number=before or 0.0)})
        return [kept] if id == "0" and before is not None else []

    def publish(_pipeline: str, _source: str, rows: Any, **_: object) -> Published:
        return Published(len(list(rows)), 0, 1.0, ())

    def outcome(*_: object) -> Outcome:
        return Outcome(100, records, duplicates, {"unknown_value": rejected} if rejected else {}, 0, ())

    parts = SimpleNamespace(counts=lambda *_: ingest.GetCountsResponse(), publish=publish)
    platform(monkeypatch, events, events=parts, features=SimpleNamespace(records=records_of))
    monkeypatch.setattr(events, "outcome", outcome)
    path = tmp_path / "loans.csv"
    path.write_text(
        "id,at,income,bad\n" + "".join(f"{n},2026-11-01T00:00:00Z,{n},true\n" for n in range(100))
    )
    done = CliRunner().invoke(app, ["publish", "loans", "events", str(path), *options])
    assert done.exit_code == code, done.output
    assert f"{records} records, {duplicates} duplicates, {rejected} rejects" in done.output
    assert ("row 1 in `income`: they are dropped" in done.output) == (before == 7.0)


@pytest.mark.parametrize("lag", [0, 7])
def test_rejects_say_when_ingest_still_reads(monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    partitions = [ingest.PartitionCounts(partition=0, lag=lag)]
    parts = SimpleNamespace(
        rejects=lambda *_: iter(()), counts=lambda *_: ingest.GetCountsResponse(partitions=partitions)
    )
    platform(monkeypatch, events, events=parts, sites=SimpleNamespace(list=list))
    done = CliRunner().invoke(app, ["rejects", "loans"])
    assert done.exit_code == 0, done.output
    assert "no rejects" in done.output
    assert ("ingest still reads: 7 events wait, so there may be more" in done.output) == (lag > 0)


def test_rejects_are_told_while_the_registry_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the ids of their events need the pipeline file."""

    def away(_: str) -> None:
        raise Unavailable("no healthy upstream")

    reject = {"reason": "not_json", "field": None, "value": None, "detail": "no JSON"}
    reject |= {"partition": 0, "offset": 7, "original": ""}
    parts = SimpleNamespace(
        rejects=lambda *_: iter([("events", reject)]), counts=lambda *_: ingest.GetCountsResponse()
    )
    pipelines = SimpleNamespace(spec=away)
    platform(monkeypatch, events, events=parts, sites=SimpleNamespace(list=list), pipelines=pipelines)
    for options in ([], ["--json"]):
        done = CliRunner().invoke(app, ["rejects", "loans", "--source", "events", *options])
        assert done.exit_code == 0, done.output
        assert "no JSON" in done.output


def test_a_version_without_gates_is_called_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the wire its audit is a pass, which nobody is told."""
    version = registry.Version(digest="3f9c" * 16, pipeline="loans", verdict="pass", not_judged=True)
    made = SimpleNamespace(model_validate_json=lambda _: SimpleNamespace(imported=None))
    monkeypatch.setattr(models, "ModelVersion", made)
    platform(monkeypatch, models, models=SimpleNamespace(list=lambda *_: [version]))
    done = CliRunner().invoke(app, ["models", "loans"])
    assert done.exit_code == 0, done.output
    assert "not judged" in " ".join(done.output.split())
    assert "pass" not in done.output
    judged = audit.Audit(audit_id="01A", pipeline="loans", digest="3f9c" * 16, verdict="pass")
    platform(monkeypatch, audits, audits=SimpleNamespace(get=lambda _: judged))
    done = CliRunner().invoke(app, ["audit", "3f9c"])
    assert "not judged" in done.output
    assert "the pipeline file has no gates" in " ".join(done.output.split())


@pytest.mark.parametrize("there", [True, False])
def test_a_page_that_no_browser_shows_is_said_to_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(output.webbrowser, "open", lambda _: there)
    parts = SimpleNamespace(report=lambda *_, **__: b"<!doctype html>")
    platform(monkeypatch, audits, audits=parts)
    done = CliRunner().invoke(app, ["report", "3f9c", "--to", str(tmp_path / "a.html"), "--open"])
    assert done.exit_code == 0, done.output
    assert ("no browser was found here" in done.output) == (not there)


RUN = trainer.Run(run_id="01R", pipeline="loans", state=trainer.Run.STATE_TRAINING)
STOPPED_BY_HAND = {
    "train loans --wait": "run 01R goes on, and its version is served if the evidence allows it. See",
    "runs loans --watch": "penstock runs loans --watch. End it: penstock cancel 01R",
    "publish loans events FILE": "what was sent until then stays, and ingest reads it. To publish",
    "review approve 3f9c --why fair": "no longer waiting: the decision stands",
    "up": "what was started goes on. See `penstock status`, `penstock down`",
    "down": "some of it may still be up",
}


@pytest.mark.parametrize("delivering", [False, True])
@pytest.mark.parametrize(("asked", "said"), STOPPED_BY_HAND.items())
def test_who_stops_waiting_is_told_what_goes_on(
    asked: str, said: str, delivering: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        if delivering:
            raise SystemError("poll returned a result with an exception set") from KeyboardInterrupt()
        raise KeyboardInterrupt

    file = tmp_path / "loans.csv"
    file.write_text("id,at,income,bad\n1,2026-11-01T00:00:00Z,1,true\n")
    made = SimpleNamespace(create=lambda *_, **__: RUN, list=lambda *_: [RUN], watch=stopped)
    sent = SimpleNamespace(
        counts=lambda *_: ingest.GetCountsResponse(records=1), end_offsets=lambda _: [], publish=stopped
    )
    decided = audit.Review(pipeline="loans", digest="3f9c" * 16, state="approved")
    parts: dict[str, Any] = {"runs": made, "events": sent, "models": SimpleNamespace(get=stopped)}
    parts["audits"] = SimpleNamespace(decide=lambda *_, **__: decided)
    for verbs in (training, events, reviews):
        platform(monkeypatch, verbs, **parts)
    embedded = SimpleNamespace(up=stopped, down=stopped, status=lambda *_: [])
    monkeypatch.setattr(stack, "_embedded", lambda: embedded)
    done = CliRunner().invoke(app, asked.replace("FILE", str(file)).split())
    assert (done.exit_code, said in " ".join(done.output.split())) == (130, True), done.output


def test_an_error_of_python_itself_is_not_told_as_a_stop_by_hand() -> None:
    with pytest.raises(SystemError, match="bad argument"), output.interrupted("it goes on"):
        raise SystemError("bad argument to internal function")


@pytest.mark.parametrize(("known", "code"), [("run", 0), ("study", 0), ("", 1)])
def test_a_run_or_a_study_is_canceled_by_its_id(
    known: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled: list[str] = []

    def cancel(kind: str, found: Any) -> Any:
        def of(identity: str, *, by: str) -> Any:
            if kind != known:
                raise NotFound(f"no {kind} {identity}")
            canceled.append(f"{kind} {identity}")
            return found

        return SimpleNamespace(cancel=of)

    platform(
        monkeypatch, training, runs=cancel("run", RUN), studies=cancel("study", tuner.Study(study_id="01R"))
    )
    done = CliRunner().invoke(app, ["cancel", "01R"])
    assert (done.exit_code, canceled) == (code, [f"{known} 01R"] if known else []), done.output
    assert ("01R is canceled" if known else "neither a run nor a study is `01R`") in done.output


@pytest.mark.parametrize(("state", "asked"), [("ready", True), ("starting", False)])
def test_down_says_what_is_interrupted_where_all_that_know_of_it_are_up(
    state: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [SimpleNamespace(program=name, state=state) for name in ("envoy", "trainer", "tuner")]
    ended = trainer.Run(run_id="01E", pipeline="loans", state=trainer.Run.STATE_FAILED)
    found = tuner.Study(study_id="01S", pipeline="loans", state=tuner.Study.STATE_SEARCHING)
    up = SimpleNamespace(
        runs=SimpleNamespace(list=lambda: [RUN, ended]), studies=SimpleNamespace(list=lambda: [found])
    )
    file = SimpleNamespace(read=lambda _: SimpleNamespace(endpoint="127.0.0.1:1"))
    embedded = SimpleNamespace(status=lambda *_: known, down=lambda _: None, StackFile=file)
    monkeypatch.setattr(stack, "_embedded", lambda: embedded)
    monkeypatch.setattr(stack, "Penstock", lambda _: nullcontext(up))
    told = CliRunner().invoke(app, ["down"]).output.splitlines()
    goes_on = "goes on with the next `up`, from where it was last kept"
    lines = [f"run 01R of loans {goes_on}", f"study 01S of loans {goes_on}"] if asked else []
    assert (told[:-1], told[-1].startswith("down; data stays in")) == (lines, True)


def test_who_stops_a_verb_by_hand_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    platform(monkeypatch, models, models=SimpleNamespace(list=stopped))
    done = CliRunner().invoke(app, ["models", "loans"])
    assert (done.exit_code, "stopped by hand" in done.output) == (130, True)
