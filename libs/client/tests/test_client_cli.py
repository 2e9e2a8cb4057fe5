"""Exit codes and sentences, without a platform."""

import inspect
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from penstock.client.cli import output
from penstock.client.cli.audits import notes
from penstock.client.cli.main import app
from penstock.client.cli.output import write_privately
from penstock.client.cli.predictions import _probable, _warned
from penstock.client.connection import Connection
from penstock.client.sites import Sites
from penstock.contracts.errors import DeadlineExceeded, Invalid, Unavailable
from penstock.contracts.load import read
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge
from penstock.ethics_audit.v1 import ethics_audit_pb2
from penstock.inference.v1 import inference_pb2 as inference
from penstock.trainer.v1 import trainer_pb2_grpc

runner = CliRunner()
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "credit-risk" / "pipeline.yaml"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "127.0.0.1:1")


def test_it_says_its_release_and_each_verb_in_a_whole_line() -> None:
    assert runner.invoke(app, ["--version"]).output == "penstock 0.1.0\n"
    helped = runner.invoke(app, ["--help"])
    assert helped.exit_code == 0
    assert not [line for line in helped.output.splitlines()[1:] if line.endswith("...")]


def test_a_good_file_validates() -> None:
    done = runner.invoke(app, ["validate", str(EXAMPLE)])
    assert done.exit_code == 0
    assert "pipeline credit-risk, 2 sources, 12 features, no problems" in done.output


def test_a_bad_file_is_shown_at_its_line_and_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(EXAMPLE.read_text().replace("outcomes.defaulted", "outcomes.default"))
    done = runner.invoke(app, ["validate", str(path)])
    assert done.exit_code == 2
    assert (
        "targets.default.from: no field `outcomes.default`; did you mean `outcomes.defaulted`?" in done.output
    )
    assert done.output.endswith("\n1 problem\n"), "it never applies anything"
    path.write_text(path.read_text().replace("on_fail: block", "on_fail: blok"))
    told = " ".join(runner.invoke(app, ["validate", str(path)]).output.split())
    assert told.endswith("1 problem; whether the rest fits together is looked at once that is mended")


def without_gates() -> str:
    return re.sub(r"  gates:.*?(?=^\w)", "  gates: []\n", EXAMPLE.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_a_good_file_that_leaves_doubts_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(without_gates())
    done = runner.invoke(app, ["validate", str(path)])
    assert done.exit_code == 0
    assert re.search(r"warning: .*pipeline\.yaml:\d+:\d+  audit: there is no gate", done.stderr)
    assert done.stdout.endswith("no problems, 1 warning\n")


def test_a_terminal_breaks_a_warning_between_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    narrow = output.Console(file=terminal, width=40, soft_wrap=True, color_system=None)
    monkeypatch.setattr("penstock.client.cli.pipelines.errors", narrow)
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(without_gates())
    runner.invoke(app, ["validate", "p.yaml"])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "there is no gate: every version is measured, and none is judged" in " ".join(
        " ".join(lines).split()
    )


def test_any_terminal_shows_any_name(tmp_path: Path) -> None:
    """A file's name and an empty cell, where the terminal's encoding has neither."""
    program = r"""
from penstock.client.cli.output import errors, show, table
show([], table(("a",), [(None,)], empty=""), "Gr\xf6\xdfe \udcff", as_json=False)
errors.print("\u2264")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.stdout.decode("ascii").split() == ["a", "-", "Gr\\xf6\\xdfe", "\\udcff"]
    assert (done.returncode, done.stderr) == (0, b"\\u2264\n")


def test_a_deadline_names_what_did_not_answer() -> None:
    connection = Connection("127.0.0.1:1")
    stub = trainer_pb2_grpc.TrainerServiceStub(connection.channel)
    with pytest.raises(
        DeadlineExceeded, match=r"trainer\.TrainerService.GetRun at 127.0.0.1:1 did not answer"
    ):
        raise connection._explained(_Late(), stub.GetRun)


def test_a_stream_that_is_dropped_half_way_is_the_platform_away() -> None:
    connection = Connection("127.0.0.1:1")
    with pytest.raises(Unavailable, match="RST_STREAM"):
        raise connection._explained(_Dropped(), None)


class _Dropped(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNKNOWN

    def details(self) -> str:
        return "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"

    def trailing_metadata(self) -> None:
        return None


class _Late(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def trailing_metadata(self) -> None:
        return None


def test_who_gives_few_of_many_inputs_is_told_briefly() -> None:
    warnings = [f"`x{n}` is missing" for n in range(47)]
    assert _warned(warnings[:5]) == [f"warning: {warning}" for warning in warnings[:5]]
    said = _warned(warnings)
    assert (len(said), said[-1]) == (6, "warning: and 42 more such; --json names all")


def test_the_most_probable_classes_come_first() -> None:
    said = _probable({f"class {n}": n / 28 for n in range(8)})
    assert said.startswith("class 7 0.2500, class 6 0.2143")
    assert said.endswith("3 others 0.1071")


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ({"positive": "Yes", "threshold": 0.144}, "; decides Yes from 0.1440 on)"),
        ({"positive": "Yes", "threshold": 0.5}, "Yes 0.4223)"),
        (
            {"positive": "Yes", "threshold": 0.5, "abstains": {"lower": 0.4, "upper": 0.6}},
            "; abstains where Yes has 0.4 to 0.6)",
        ),
        ({"abstains": {"lower": 0, "upper": 0.5}}, "; abstains where the likeliest class has 0 to 0.5)"),
        ({}, "Yes 0.4223)"),
    ],
)
def test_a_decision_against_the_likelier_class_says_from_where_on_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, edges: dict[str, Any], said: str
) -> None:
    answer = inference.PredictResponse(
        decision="Yes", probabilities={"No": 0.5777, "Yes": 0.4223}, digest="sha256:3f9c12ab", **edges
    )
    asked = SimpleNamespace(by_fields=lambda *_: answer)
    monkeypatch.setattr("penstock.client.client.Predictions", lambda *_: asked)
    done = runner.invoke(app, ["predict", "staff", "--input", '{"OverTime": "Yes"}'])
    assert done.output.splitlines()[0].endswith(said), done.output
    assert done.output.startswith("Yes   (No 0.5777, Yes 0.4223")


def test_a_number_is_said_once_and_never_as_minus_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = inference.PredictResponse(value=2.6509, interval={"lower": -1e-6, "upper": 9.5951})
    asked = SimpleNamespace(by_fields=lambda *_: answer)
    monkeypatch.setattr("penstock.client.client.Predictions", lambda *_: asked)
    done = runner.invoke(app, ["predict", "claims", "--input", '{"age": 40}'])
    assert done.output.splitlines()[0] == "2.6509, 0.0000 to 9.5951"


class _Topic:
    """A topic of predictions, as `Events.read` gives it."""

    def __init__(self, *values: bytes) -> None:
        self._values = values

    def read(self, _topic: str) -> Iterator[Any]:
        return (SimpleNamespace(value=lambda value=value: value) for value in self._values)


def _recorded(identity: str, **further: Any) -> bytes:
    empty = dict.fromkeys(("traceparent", "inputs", "probabilities", "values", "undecoded", "digest"))
    said = {"id": identity, "pipeline": "loans", "generation": 1, "milliseconds": 1.5, "protocol": "grpc"}
    said |= {"status": "OK", "rows": 1, "decisions": ["yes"], "time": f"2026-11-30T12:00:0{identity}Z"}
    return json.dumps(empty | said | further).encode()


@pytest.mark.parametrize(
    ("flags", "shown"), [((), ["3", "2"]), (("--for-labelling",), ["2", "0"]), (("--limit", "1"), ["3"])]
)
def test_the_newest_predictions_are_listed_and_those_that_a_person_is_to_label(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], shown: list[str]
) -> None:
    topic = _Topic(
        _recorded("3", for_labelling=False, confidence=[0.9]),
        b"no record",
        _recorded("0", for_labelling=True, confidence=[0.05, 0.5], site="branch-1"),
        _recorded("2", for_labelling=True, confidence=[0.1]),
        _recorded("1"),
    )
    monkeypatch.setattr("penstock.client.client.Events", lambda *_: topic)
    done = runner.invoke(app, ["predictions", "loans", "--limit", "2", *flags, "--json"])
    assert [one["id"] for one in json.loads(done.output)] == shown
    done = runner.invoke(app, ["predictions", "loans", "--for-labelling"])
    assert [line.split()[0] for line in done.output.splitlines()[-2:]] == ["2", "0"], done.output
    assert {"branch-1", "0.05"} <= set(done.output.split())


def test_all_sites_are_listed_however_many_answers_that_takes() -> None:
    pages = {
        "": edge.ListSitesResponse(sites=[edge.Site(name="a"), edge.Site(name="b")], next_page_token="b")
    }
    pages["b"] = edge.ListSitesResponse(sites=[edge.Site(name="c")])
    sites = Sites(Connection("127.0.0.1:1"))
    sites._stub = SimpleNamespace(
        ListSites=lambda request, timeout: pages[request.page_token if request.page_size else "?"]
    )
    assert [site.name for site in sites.list()] == ["a", "b", "c"]


def test_a_model_that_is_not_there_is_said_before_anybody_is_asked(tmp_path: Path) -> None:
    done = runner.invoke(app, ["import", "loans", str(tmp_path / "model.onnx")])
    assert done.exit_code == 2
    assert "model.onnx: there is no such file" in done.output


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [["models", "x"], ["train", "x"], ["pipelines"], ["predict", "x", "--entity", "1"], ["verify", "3f9c"]],
)
def test_a_platform_that_is_away_is_said_in_a_sentence(arguments: list[str]) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 1
    assert "the platform at 127.0.0.1:1 does not answer" in done.output
    assert "penstock up" in done.output
    assert "Traceback" not in done.output


def test_a_platform_that_nobody_named_is_said_before_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Called(Exception):
        pass

    def call(*_: object, **__: object) -> None:
        raise Called

    monkeypatch.setattr(Connection, "__init__", call)
    monkeypatch.chdir(tmp_path)
    for name in ("PENSTOCK_HOME", "PENSTOCK_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    said = "calling 127.0.0.1:9080, whatever is there"
    nowhere = f"{said}: no stack was started from this folder or one above. To name the platform once:"
    for asked in (["apply", "none.yaml"], ["models", "x"], ["pipelines"], ["status"], ["review", "list"]):
        assert nowhere in runner.invoke(app, asked).stderr, asked
    assert said not in runner.invoke(app, ["apply", "--help"]).stderr
    assert said not in runner.invoke(app, ["validate", "none.yaml"]).stderr
    (tmp_path / ".penstock").mkdir()
    assert f"{said}: the stack of .penstock is down (`penstock up` starts it)" in (
        runner.invoke(app, ["models", "x"]).stderr
    )
    for named in (tmp_path / "nowhere", tmp_path / ".penstock"):
        monkeypatch.setenv("PENSTOCK_HOME", str(named))
        done = runner.invoke(app, ["delete", "x", "--yes"])
        assert (done.exit_code, said in done.stderr, type(done.exception)) == (1, False, SystemExit)
        assert "which PENSTOCK_HOME names. Run `penstock up` there" in " ".join(done.stderr.split())
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "127.0.0.1:1")
    assert said not in runner.invoke(app, ["apply", "none.yaml"]).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["validate", "absent.yaml"], "absent.yaml: no such file"),
        (["apply", "absent.yaml"], "absent.yaml: no such file"),
        (["predict", "x"], "Give --entity ID or --input JSON"),
        (["predict", "x", "--columns", "--input", "{}"], "Give --entity ID or --input JSON"),
        (["predict", "x", "--input", "{"], "--input is no JSON"),
        (["predict", "x", "--input", "[1]"], "--input is no object of feature names and values. Write it as"),
        (["logs", "ingest"], "penstock up"),
    ],
)
def test_a_wrong_call_says_what_to_do(arguments: list[str], said: str) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code in (1, 2)
    assert said in done.output


def test_a_pipeline_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("pipeline: größe", encoding="latin-1")
    done = runner.invoke(app, ["validate", str(path)])
    assert (done.exit_code, done.output) == (2, f"{path}: is not UTF-8; save it in that encoding\n")


def test_init_writes_a_file_that_validates(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(
            json.dumps({"user_id": i, "at": "2026-01-01T00:00:00Z", "x": i / 2, "good": i % 2 == 0}) + "\n"
            for i in range(50)
        )
    )
    out = tmp_path / "pipeline.yaml"
    assert runner.invoke(app, ["init", "--from", str(data), "--to", str(out)]).exit_code == 0
    assert runner.invoke(app, ["validate", str(out)]).exit_code == 0
    assert runner.invoke(app, ["init", "--from", str(data), "--to", str(out)]).exit_code == 2


@pytest.mark.parametrize(
    ("answers", "task", "protected"),
    [
        ([], "binary", ["sex"]),
        (["shape"], "multiclass", ["sex"]),
        (["ok", "no", "", "", "sex, shape"], "binary", ["shape", "sex"]),
        (["okk", "ok", "on", "no", "", "", "sex, shap", "sex, shape"], "binary", ["shape", "sex"]),
        (["", "", "", "", "none"], "binary", []),
    ],
)
def test_init_asks_with_its_guess_as_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[str], task: str, protected: list[str]
) -> None:
    monkeypatch.setattr("penstock.client.cli.init.answers_come", lambda: True)
    data, out = tmp_path / "data.csv", tmp_path / "pipeline.yaml"
    rows = "".join(
        f"{'abc'[n % 3]},{'fm'[n % 2]},{n * 7 % 30},{'yes' if n % 5 else 'no'}\n" for n in range(60)
    )
    data.write_text("shape,sex,size,ok\n" + rows)
    said = "\n".join(answers) + "\n" * 9
    done = runner.invoke(app, ["init", "--from", str(data), "--to", str(out)], input=said)
    assert done.exit_code == 0, done.output
    pipeline = read(out.read_text())
    assert pipeline.target.type == task
    fields = pipeline.sources["events"].fields.items()
    assert [name for name, field in fields if field.protected] == protected
    if "okk" in answers:
        assert "there is no `okk`; did you mean `ok`?" in done.output
        assert "there is no `shap`; did you mean `shape`?" in done.output
    if "no" in answers:
        assert pipeline.target.positive == "no"
    again = runner.invoke(app, ["init", "--from", str(data), "--to", str(tmp_path / "b.yaml"), "--yes"])
    assert "Column to be answered?" in done.output
    assert "Column to be answered?" not in again.output


def test_init_says_that_a_guess_is_a_mere_one_and_how_to_take_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data.csv", tmp_path / "a.yaml"
    header = ",".join(["shape", *(f"m{letter}" for letter in "abcdefghijklmnopqrstuvwxy")])
    draw = random.Random(1)
    rows = (",".join([draw.choice("abc"), *(f"{draw.random():.3f}" for _ in range(25))]) for _ in range(60))
    data.write_text("\n".join([header, *rows]) + "\n")
    command = ["init", "--from", str(data), "--to", str(out)]
    done = runner.invoke(app, [*command, "--yes"])
    assert "; a mere guess, as the last column; else shape" in done.output
    assert "--target shape" in done.output
    assert "protected none by its name" in done.output
    out.unlink()
    monkeypatch.setattr("penstock.client.cli.init.answers_come", lambda: True)
    asked = runner.invoke(app, command, input="\n" * 40)
    assert " and 4 more) [my]" in asked.output
    assert "# as you said\n" in out.read_text(), "and is not asked again"


def test_init_says_what_it_doubts_and_that_rows_are_few(tmp_path: Path) -> None:
    """Seven columns say 1 where somebody paid, and of those who did not in the half of the cases."""
    data, draw = tmp_path / "data.csv", random.Random(1)
    paid = [draw.choice("ny") for _ in range(299)]
    rows = [",".join([*(str(int(yes == "y" or draw.random() < 0.5)) for _ in range(7)), yes]) for yes in paid]
    data.write_text("\n".join(["a1x,b2x,c3y,d4z,e5v,f6u,g7w,paid", *rows]) + "\n")
    done = runner.invoke(app, ["init", "--from", str(data), "--to", str(tmp_path / "a.yaml")])
    assert "few       299 rows: an audit of fewer than some 300 says little." in done.output
    assert done.output.count("doubt     ") == 5
    assert "and 2 more such in the file" in done.output
    assert (tmp_path / "a.yaml").read_text().count("when is it known?") == 7


@pytest.mark.parametrize("option", ["--to", "--report"])
def test_where_no_file_can_be_written_is_said_before_any_work(tmp_path: Path, option: str) -> None:
    data = tmp_path / "no data that anybody reads.csv"
    for place, said in (("nowhere/a.yaml", "no such folder. Make it"), ("", "is a folder")):
        done = runner.invoke(app, ["init", "--from", str(data), option, str(tmp_path / place)])
        assert done.exit_code == 2, done.output
        assert said in " ".join(done.output.split()) or "exists" in done.output


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # as `write` says it, of no file

    monkeypatch.setattr(Path, "write_text", full)
    command = ["init", "--from", str(_loans(tmp_path)), "--to", str(tmp_path / "a.yaml")]
    done = runner.invoke(app, command)
    assert done.exit_code == 2
    assert "a.yaml: cannot be written: No space left on device" in "".join(done.output.split("\n"))
    with pytest.raises(Invalid, match="/dev/full: cannot be written: No space left on device"):
        write_privately(Path("/dev/full"), b"page")


def test_a_page_may_go_into_a_pipe_whose_rights_stay_as_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "page"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_privately(pipe, b"page")
    reader.join(30)
    assert (read, pipe.stat().st_mode & 0o777) == ([b"page"], 0o644)


def test_the_page_on_ones_data_is_ones_own(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("of before" * 100_000)
    page.chmod(0o644)
    data, out = str(_loans(tmp_path)), str(tmp_path / "a.yaml")
    done = runner.invoke(app, ["init", "--from", data, "--to", out, "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert page.stat().st_mode & 0o777 == 0o600
    said = page.read_text()
    assert (said.startswith("<!doctype html>"), "of before" in said) == (True, False)


def _loans(folder: Path) -> Path:
    path = folder / "loans.csv"
    path.write_bytes(b"x,y\n" + b"".join(b"%d,%s\n" % (n * 7 % 30, b"ny"[n % 2 :][:1]) for n in range(40)))
    return path


def test_init_says_what_its_guess_still_lacks(tmp_path: Path) -> None:
    data, out = tmp_path / "data.csv", tmp_path / "pipeline.yaml"
    data.write_text(
        "id,at,sex,repaid\n" + "".join(f"{i},2026-01-01,{'fm'[i % 2]},{i % 2 == 0}\n" for i in range(9))
    )
    done = runner.invoke(app, ["init", "--from", str(data), "--to", str(out), "--json"])
    assert done.exit_code == 1
    (problem,) = json.loads(done.output)["problems"]
    assert "no field is left for the model" in problem


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        (
            "PENSTOCK_KAFKA__SSL_CA_LOCATON",
            "setting kafka: Kafka has no setting `ssl_ca_locaton`; did you mean `ssl_ca_location`?",
        ),
        ("PENSTOCK_KAFKA__REPLICATION", "setting kafka.replication: Input should be a valid integer"),
    ],
)
def test_a_wrong_setting_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(variable, "x")
    done = runner.invoke(app, ["pipelines"])
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert "Traceback" not in done.output


def test_every_verb_that_prints_has_json() -> None:
    streams = {"logs"}  # lines as they are

    def verbs(typed: typer.Typer, prefix: str = "") -> Iterator[tuple[str, object]]:
        for command in typed.registered_commands:
            assert command.callback is not None
            yield prefix + (command.name or command.callback.__name__.strip("_")), command.callback
        for group in typed.registered_groups:
            assert group.typer_instance is not None
            yield from verbs(group.typer_instance, f"{group.name} ")

    found = dict(verbs(app))
    assert len(found) > 20
    assert {
        name for name, callback in found.items() if "as_json_" not in inspect.signature(callback).parameters
    } == streams  # type: ignore[arg-type]


def test_a_key_is_rotated_where_keys_lie_and_nowhere_else(tmp_path: Path) -> None:
    """The containers' keys do not lie on this machine: a new one here would sign nothing."""
    done = runner.invoke(app, ["keys", "rotate", "registry"])
    assert done.exit_code != 0
    assert "no keys lie in" in done.output
    assert "operations.md" in done.output
    assert not (tmp_path / "keys").exists()
    (tmp_path / "keys").mkdir()
    assert "registry signs with" in runner.invoke(app, ["keys", "rotate", "registry"]).output
    assert [one["role"] for one in json.loads(runner.invoke(app, ["keys", "rotate", "--json"]).output)] == [
        "registry",
        "audit",
        "trainer",
        "feature_store",
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_text_from_outside_reaches_no_terminal_as_a_command(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escapes of 7 and of 8 bits, and what turns the order of letters."""
    odd = "ann\x1b]0;owned\x07\x9b31m\u202ecba\rdone"
    monkeypatch.setattr(output.console, "_file", sys.stdout)
    shown = output.table(("by", "why"), [(odd, Text(odd))], empty="")
    output.show([{"by": odd}], odd, shown, as_json=as_json)
    said = capsys.readouterr().out
    assert not set(said) & set("\x1b\x07\x9b\u202e\r")
    if as_json:
        assert json.loads(said) == [{"by": odd}]
    else:
        assert said.count("ann\\x1b]0;owned") == 3


def test_what_the_signed_result_says_beside_its_verdict_is_shown() -> None:
    found = ethics_audit_pb2.Audit(result_json=json.dumps({"notes": ["2nd look at these audit rows: …"]}))
    assert [str(note) for note in notes(found)] == ["2nd look at these audit rows: …"]
    assert [notes(ethics_audit_pb2.Audit(result_json=said)) for said in ("", "{}")] == [[], []], "of before"


@pytest.mark.process
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    "asked", [["--help"], ["validate", str(EXAMPLE)], ["validate", str(EXAMPLE), "--json"]]
)
def test_an_output_that_cannot_be_written_is_a_sentence(asked: list[str], buffered: str) -> None:
    command = [sys.executable, "-c", "from penstock.client.cli import main; main()", *asked]
    environment = os.environ | {"PYTHONUNBUFFERED": buffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    said = "standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.process
def test_a_reader_that_has_enough_and_an_output_that_is_closed_are_no_mistakes() -> None:
    asked = [sys.executable, "-c", "from penstock.client.cli import main; main()", "validate", str(EXAMPLE)]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(asked, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")
    done = subprocess.run(["sh", "-c", f"{shlex.join(asked)} >&-"], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
def test_ctrl_c_while_it_loads_ends_it_without_a_traceback() -> None:
    """The signal comes in the midst of it, from a module that it loads; and none is lost to it later."""
    program = """
import os, signal, sys, threading
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "penstock.client.cli.tuning" and "now" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from penstock.client.cli import main
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    for asked, code in (([], 0), (["now"], -signal.SIGINT)):
        done = subprocess.run(
            [sys.executable, "-c", program, *asked],
            capture_output=True,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's `&` ignores it
        )
        assert (done.returncode, done.stderr) == (code, "")
