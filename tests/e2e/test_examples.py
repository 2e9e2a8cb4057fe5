"""The examples as a reader runs them: the demo whole, and the commands of the other READMEs one by
one.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from census import ROOT

from penstock.contracts.load import read
from penstock.contracts.pipeline import BoostedTrees
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.journey import Journey
from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack

BIN = Path(sys.executable).parent


def environment(stack: StackUnderTest) -> dict[str, str]:
    return os.environ | {"PENSTOCK_HOME": str(stack.home), "COLUMNS": "160"}


@pytest.fixture(scope="module")
def demo(stack: StackUnderTest) -> str:
    """Output of the demo; its pipeline and events stay."""
    command = [sys.executable, ROOT / "examples" / "adult-income" / "demo.py"]
    done = subprocess.run(command, env=environment(stack), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_demo_keeps_its_word(stack: StackUnderTest, demo: str) -> None:
    for said in (
        "49722 events: 48842 records, 500 duplicates, 380 rejects",
        "refused",
        "promoted: generation 1",
        "four ways, one answer",
    ):
        assert said in demo
    assert re.search(r"events adult-income\.people\.events\.v1 partition 0, offsets 0 to \d+", demo)
    assert re.search(r"p50 \d+\.\d ms, p99 \d+\.\d ms", demo)
    summary = demo.partition("\nsummary\n")[2]
    for said in (
        r"signed by +model \w{12}, verdict \w{12} +model \w{12}, verdict \w{12}",
        (
            r"equalized odds difference by sex ≤ 0\.1 +0\.\d+ \[0\.\d+, 0\.\d+\] fail +0\.\d+ \[0\.\d+,"
            r" 0\.\d+\] pass"
        ),
        r"training loss +[▁-█]+ +[▁-█]+",
        r"validation loss +[▁-█]+ +[▁-█]+",
        r"served: sha256:[0-9a-f]{64}",
        r"rejects: 60 \w+, ",
        r"HTTP +p00100 earns more than 50,000 dollars with probability 0\.\d{6}",
        r"features from event e00100 of p00100",
        r"seconds: stack up \d+ s, .*; together \d+ s",
        r"reports: \S+/refused\.html, \S+/promoted\.html",
        r"try next:\n +\S+penstock status",
        r"stop with: \S+penstock down",
    ):
        assert re.search(said, summary), f"{said}\n{summary}"
    for report in ("refused", "promoted"):
        assert "<svg" in (stack.home / "reports" / f"{report}.html").read_text()


def run_readme(stack: StackUnderTest, example: str, count: int) -> registry.Version:
    """Runs its commands, so many, and returns the version that they end with."""
    page = (ROOT / "examples" / example / "README.md").read_text()
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).strip().splitlines()
    assert len(commands) == count
    name = trained = ""
    for command in commands:
        if "VERSION" in command:
            if "approve" in command and trained not in {
                review.digest for review in stack.client.audits.reviews(example)
            }:
                continue  # nothing waits for a person
            command = command.replace("VERSION", trained)
        if "predict" in command:
            Journey(stack.client).until_served(example, trained)
        done = subprocess.run(
            ["bash", "-c", command.replace(".venv/bin", str(BIN))],
            cwd=ROOT,
            env=environment(stack) | {"BROWSER": "true"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if " train " in command:  # labels may have started another run, too
            (name,) = re.findall(rf"^version ({example}@\w+)", done.stdout, re.MULTILINE)
            trained = stack.client.models.get(name).digest
    assert name in done.stdout, "a prediction says which version made it"
    version = stack.client.models.get(name)
    assert version.state == registry.Version.STATE_PROMOTED
    report = ROOT / f"audit-{trained.removeprefix('sha256:')[:8]}.html"
    assert "<svg" in report.read_text()
    report.unlink()
    return version


def told(stack: StackUnderTest, command: str) -> str:
    """Output of a README's command, run as it stands."""
    done = subprocess.run(
        ["bash", "-c", command.replace(".venv/bin", str(BIN))],
        cwd=ROOT,
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_other_models_of_the_census_are_trained_by_the_readme(stack: StackUnderTest, demo: str) -> None:
    page = (ROOT / "examples" / "adult-income" / "README.md").read_text()
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).strip().splitlines()
    assert [command.split()[1] for command in commands] == ["apply", "train", "apply", "train", "models"]
    said = [told(stack, command) for command in commands]
    for trained in (said[1], said[3]):
        (name,) = re.findall(r"^version (adult-income@\w+)", trained, re.MULTILINE)
        assert name in said[4]
        assert stack.client.models.get(name).metrics["auroc"] > 0.9


def test_credit_risk_runs_through_by_its_readme(stack: StackUnderTest) -> None:
    version = run_readme(stack, "credit-risk", 10)
    assert version.metrics["auroc"] > 0.75
    counts = stack.client.events.counts("credit-risk", "outcomes")
    assert (counts.records, counts.events) == (4454, 4454)


@pytest.mark.slow  # 49,097 readings
def test_machine_telemetry_runs_through_by_its_readme(stack: StackUnderTest) -> None:
    """An autoencoder goes from events to a served, audited version."""
    page = (ROOT / "examples" / "machine-telemetry" / "README.md").read_text()
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).strip().splitlines()
    assert len(commands) == 5
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command.replace(".venv/bin", str(BIN))],
            cwd=ROOT,
            env=environment(stack),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if " train " in command:
            (name,) = re.findall(r"^version (machine-telemetry@\w+)", done.stdout, re.MULTILINE)
    assert name in done.stdout, "a prediction says which version made it"
    version = stack.client.models.get(name)
    assert version.metrics["auroc"] > 0.99
    audited = stack.client.audits.get(version.digest)
    assert audited.verdict == "pass"
    assert {gate.metric for gate in audited.gates} == {"auroc", "precision"}


def test_text_reviews_run_through_by_their_readme(stack: StackUnderTest) -> None:
    version = run_readme(stack, "text-reviews", 7)
    assert version.metrics["auroc"] > 0.85
    counts = stack.client.events.counts("text-reviews", "reviews")
    assert (counts.records, counts.events) == (22_641, 22_641)


def test_a_file_at_hand_becomes_a_model_by_the_readme(stack: StackUnderTest, tmp_path: Path) -> None:
    """With times as most exports write them, without a zone."""
    rows = random.Random(7)
    lines = ["loan_id,applied_at,income,purpose,repaid"]
    for number in range(600):
        income = rows.gauss(3000, 800)
        repaid = rows.random() < (0.9 if income > 2800 else 0.3)
        lines.append(
            f"{number},2026-0{1 + number % 9}-11"
            f" 12:{number % 60:02d}:00,{income:.2f},{rows.choice(['car', 'home'])},{repaid}"
        )
    (tmp_path / "loans.csv").write_text("\n".join(lines) + "\n")
    block = re.search(
        r"^## Use it\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert block is not None
    said = ""
    for command in block[1].strip().splitlines():
        if "PREDICTION" in command:
            (prediction,) = re.findall(r"penstock trace (\S+)", said)
            command = command.replace("PREDICTION", prediction)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment(stack) | {"PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said = done.stdout
        print(said)
    assert "features from event 42 of 42" in said
    counts = stack.client.events.counts("loans", "events")
    assert (counts.records, dict(counts.rejects)) == (600, {})


def test_the_two_census_pipelines_differ_by_the_constraint_alone() -> None:
    plain, fair = (
        (ROOT / "examples" / "adult-income" / name).read_text().splitlines()
        for name in ("pipeline.yaml", "pipeline-fair.yaml")
    )
    assert [line for line in fair if line not in plain] == [
        "  fairness: {notion: equalized_odds, by: sex, strength: 0.3}"
    ]
    assert [line for line in plain if line not in fair] == []


@pytest.mark.parametrize("name", ["trees", "wide-deep"])
def test_a_census_file_of_another_family_differs_by_the_model_alone(name: str) -> None:
    folder = ROOT / "examples" / "adult-income"
    plain, other = ((folder / f"{file}.yaml").read_text() for file in ("pipeline", f"pipeline-{name}"))
    start, end = plain.index("model:"), plain.index("audit:\n")
    assert other.startswith(plain[:start])
    assert other.endswith(plain[end:])
    assert read(other).model.type == name.replace("trees", "boosted_trees").replace("-", "_")


def test_the_monotone_credit_file_differs_by_the_model_alone() -> None:
    plain, held = (
        (ROOT / "examples" / "credit-risk" / name).read_text()
        for name in ("pipeline.yaml", "pipeline-monotone.yaml")
    )
    start, end = plain.index("model:"), plain.index("audit:\n")
    assert held.startswith(plain[:start])
    assert held.endswith(plain[end:])
    model = read(held).model
    assert isinstance(model, BoostedTrees)
    assert model.monotone["income"] == "decreasing"
