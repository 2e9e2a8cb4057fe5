"""`penstock tune` and `penstock study` against a real gRPC server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import typer

from penstock.client import ClientSettings, Penstock
from penstock.client.cli import leaderboard, tuning
from penstock.contracts.errors import Invalid
from penstock.tuner.v1 import tuner_pb2 as pb
from penstock.tuner.v1 import tuner_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "examples" / "credit-risk" / "pipeline.yaml"
OWN = pb.Trial(
    number=0,
    state=pb.Trial.STATE_COMPLETE,
    choices_json="{}",
    overrides_json="{}",
    values=[2.5],
    family="mlp",
)
FOUND = pb.Trial(
    number=1,
    state=pb.Trial.STATE_COMPLETE,
    choices_json='{"mlp.model.dropout": 0.125}',
    overrides_json='{"model.dropout": 0.125}',
    values=[2.25],
    metrics={"train_loss": 0.35, "validation_loss": 0.475},
    family="mlp",
)
WORSE = pb.Trial(number=2, state=pb.Trial.STATE_FAILED, failure="one class only", overrides_json="{}")


def study(state: int, *trials: pb.Trial, **fields: object) -> pb.Study:
    return pb.Study(
        study_id="01S",
        pipeline="credit-risk",
        state=state,
        trials=trials,
        trials_planned=3,
        objectives=["loss"],
        **fields,
    )


SEARCHING = study(pb.Study.STATE_SEARCHING, OWN, best=0, time_planned_s=60, time_spent_s=20)
BETTER = study(
    pb.Study.STATE_COMPLETED,
    OWN,
    FOUND,
    WORSE,
    best=1,
    run_id="01R",
    conclusion="trial 1 is better than yours",
    importance={"mlp.model.dropout": 0.25, "model.type": 0.75},
)
KEPT = study(pb.Study.STATE_COMPLETED, OWN, best=0, conclusion="no better than yours: keep it")


class Tuner(tuner_pb2_grpc.TunerServiceServicer):
    def __init__(self) -> None:
        self.states: tuple[pb.Study, ...] = ()
        self.canceled_by = ""

    def WatchStudy(self, request: pb.WatchStudyRequest, context: grpc.ServicerContext) -> Iterator[pb.Study]:
        yield from self.states

    def GetStudy(self, request: pb.GetStudyRequest, context: grpc.ServicerContext) -> pb.Study:
        return BETTER

    def CancelStudy(self, request: pb.CancelStudyRequest, context: grpc.ServicerContext) -> pb.Study:
        self.canceled_by = request.canceled_by
        return study(pb.Study.STATE_CANCELED, OWN, best=0)


class Follow:
    """`penstock tune` from where the study was asked for."""

    def __init__(self) -> None:
        self.tuner = Tuner()
        self.server = grpc.server(ThreadPoolExecutor(1))
        tuner_pb2_grpc.add_TunerServiceServicer_to_server(self.tuner, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def __call__(self, *states: pb.Study, write: Path | None = None, as_json: bool = False) -> None:
        self.tuner.states = states
        with Penstock(ClientSettings(endpoint=f"127.0.0.1:{self.port}")) as penstock:
            tuning._until_the_end(penstock, SEARCHING, wait=False, write=write, as_json=as_json)


@pytest.fixture
def follow() -> Iterator[Follow]:
    made = Follow()
    yield made
    made.server.stop(None)


def test_the_head_says_how_far_it_is() -> None:
    said = leaderboard.head(
        study(pb.Study.STATE_SEARCHING, OWN, WORSE, best=0, time_planned_s=60, time_spent_s=20)
    )
    assert said == "study 01S of credit-risk, searching: 2 of 3 trials, 1 failed, 0:00:40 left"


def test_a_better_model_is_shown_beside_ones_own_values_and_written(
    follow: Follow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(FILE.read_text())
    follow(SEARCHING, BETTER, write=file)
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["1", "best", "2.25", "0.35", "0.475", "mlp", "–", "–", "dropout", "0.125"] in lines
    assert ["0", "my", "own", "values", "2.5"] in [line[:5] for line in lines]
    assert "trial 1 is better than yours" in said
    assert "what mattered: model.type 75%, mlp.model.dropout 25%" in said
    assert "run 01R trains with the values of trial 1" in said
    assert "dropout: 0.125" in file.read_text()


def test_a_watch_shows_all_trials_though_only_changed_ones_are_told(follow: Follow) -> None:
    runs = pb.Trial(number=1, state=pb.Trial.STATE_RUNNING)
    left = pb.Trial(number=2, state=pb.Trial.STATE_RUNNING)
    follow.tuner.states = (
        study(pb.Study.STATE_SEARCHING, OWN, runs),
        study(pb.Study.STATE_SEARCHING, left),
        study(pb.Study.STATE_COMPLETED, FOUND, best=1),
    )
    with Penstock(ClientSettings(endpoint=f"127.0.0.1:{follow.port}")) as penstock:
        seen = [list(found.trials) for found in penstock.studies.watch("01S")]
    assert seen == [[OWN, runs], [OWN, runs, left], [OWN, FOUND]], "what runs at the end is forgotten"


def test_trials_of_the_front_are_marked() -> None:
    values = {0: (0.2, 5.0), 1: (0.1, 9.0), 2: (0.2, 6.0)}
    trials = [
        pb.Trial(number=number, state=pb.Trial.STATE_COMPLETE, values=v) for number, v in values.items()
    ]
    several = pb.Study(trials=trials, objectives=["quality", "speed"], best=1, state=pb.Study.STATE_COMPLETED)
    assert [leaderboard.name_of(several, trial) for trial in trials] == [
        "my own values, front",
        "best, front",
        "",
    ]


def test_values_that_are_kept_change_no_file(
    follow: Follow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(FILE.read_text())
    follow(KEPT, write=file)
    assert "no better than yours: keep it" in capsys.readouterr().out
    assert file.read_text() == FILE.read_text()


def test_a_program_is_given_one_document(follow: Follow, capsys: pytest.CaptureFixture[str]) -> None:
    follow(SEARCHING, BETTER, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["best"], told["run_id"], len(told["trials"])) == (1, "01R", 3)


def test_a_failed_study_ends_with_its_sentence(follow: Follow, capsys: pytest.CaptureFixture[str]) -> None:
    failed = study(
        pb.Study.STATE_FAILED, WORSE, failure="none of 1 trials ended well", remedy="Change the space"
    )
    with pytest.raises(typer.Exit) as ended:
        follow(failed)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    assert "one class only" in out
    assert "study 01S failed: none of 1 trials ended well. Change the space" in err


def test_the_report_is_a_page_that_nobody_else_may_read(
    follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", f"127.0.0.1:{follow.port}")
    monkeypatch.chdir(tmp_path)
    tuning.report("01S")
    page = tmp_path / "study-01S.html"
    assert "wrote study-01S.html" in capsys.readouterr().out
    assert page.stat().st_mode & 0o777 == 0o600
    assert "Trial 1 is better than yours." in page.read_text()


def test_ctrl_c_ends_the_study_and_says_what_is_kept(
    follow: Follow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "head", interrupted)
    with pytest.raises(typer.Exit) as ended:
        follow(SEARCHING)
    assert ended.value.exit_code == 130
    assert follow.tuner.canceled_by
    assert "canceled; 1 trials are kept: penstock study show 01S" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["10", "ten minutes", "-1m"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="--time"):
        tuning._duration(text)


def test_a_file_that_cannot_be_edited_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no such file"):
        tuning._writable(tmp_path / "none.yaml", "credit-risk")
    with pytest.raises(Invalid, match="file of pipeline `credit-risk`, not of `loans`"):
        tuning._writable(FILE, "loans")
