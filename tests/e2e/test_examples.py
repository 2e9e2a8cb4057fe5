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
from penstock.contracts.pipeline import BoostedTrees, Genetic, Limits
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.journey import Journey
from penstock.testing.stack import StackUnderTest
from penstock.tuner.v1 import tuner_pb2 as tuner

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


def blocks(example: str) -> list[list[str]]:
    """Commands of its README, block by block."""
    page = (ROOT / "examples" / example / "README.md").read_text()
    return [block.strip().splitlines() for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)]


def run_readme(stack: StackUnderTest, example: str, count: int) -> registry.Version:
    """Runs its commands but for `tune`, so many, and returns the version that they end with."""
    commands = [one for block in blocks(example) for one in block if " tune " not in one]
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


def told(stack: StackUnderTest, command: str, within: float = 300) -> str:
    """Output of a README's command, run as it stands."""
    done = subprocess.run(
        ["bash", "-c", command.replace(".venv/bin", str(BIN))],
        cwd=ROOT,
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=within,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tuned(stack: StackUnderTest, example: str, more: str = "") -> tuner.Study:
    """Runs the `tune` of its README, with other options where `more` says so, to an honest end: a
    version that was judged and names the study, or none, as the file's own values are the best.
    """
    (command,) = (one for block in blocks(example) for one in block if " tune " in one)
    said = told(stack, command.replace(" --wait", f" {more} --wait"), within=1200)
    found = stack.client.studies.get(stack.client.studies.list(example)[0].study_id)
    assert found.state == tuner.Study.STATE_COMPLETED, found.failure
    assert found.conclusion in " ".join(said.split())
    assert bool(found.run_id) == bool(found.best)
    if found.run_id:
        digest = stack.client.runs.get(found.run_id).digest
        version = stack.client.models.get(f"{example}@{digest}")
        assert version.state in (registry.Version.STATE_PROMOTED, registry.Version.STATE_REFUSED)
        assert f"of study {found.study_id}" in told(stack, f".venv/bin/penstock trace {digest}")
    return found


def test_other_models_of_the_census_are_trained_by_the_readme(stack: StackUnderTest, demo: str) -> None:
    (commands,) = (block for block in blocks("adult-income") if "pipeline-trees.yaml" in block[0])
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
    found = tuned(stack, "credit-risk", "--trials 3")
    assert [len(found.trials), len(found.trials[0].losses)] == [3, 50]


@pytest.mark.slow  # twenty trials, on five folds each
def test_credit_risk_is_tuned_by_its_readme_to_the_letter(stack: StackUnderTest) -> None:
    run_readme(stack, "credit-risk", 10)
    assert len(tuned(stack, "credit-risk").trials) == 20


@pytest.mark.slow  # 24 trials on 29,000 rows
def test_the_census_is_tuned_for_quality_and_fairness_by_the_readme(stack: StackUnderTest, demo: str) -> None:
    (commands,) = (block for block in blocks("adult-income") if "pipeline-front.yaml" in block[0])
    told(stack, commands[0])
    found = tuned(stack, "adult-income")
    assert len(found.trials) == 24
    quality, fairness = found.trials[found.best].values
    assert quality < 0.12
    assert fairness <= 0.07
    told(stack, commands[2].replace("STUDY", found.study_id).replace(".venv", "BROWSER=true .venv"))
    page = ROOT / f"study-{found.study_id}.html"
    assert 'class="gate"' in page.read_text()
    page.unlink()


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


@pytest.mark.slow  # five trials of half a minute
def test_text_reviews_are_tuned_by_their_readme(stack: StackUnderTest) -> None:
    run_readme(stack, "text-reviews", 7)
    assert len(tuned(stack, "text-reviews").trials) == 5


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


def test_the_census_file_with_a_front_differs_from_the_fair_one_by_its_study_alone() -> None:
    folder = ROOT / "examples" / "adult-income"
    fair, front = ((folder / f"pipeline-{name}.yaml").read_text() for name in ("fair", "front"))
    start, end = front.index("# Quality against"), front.index("audit:\n")
    assert front[:start] + front[end:] == fair
    (gate,) = (gate for gate in read(front).audit.gates if gate.by == "sex")
    section = read(front).tuner
    assert isinstance(section, Genetic)
    assert isinstance(section.choose, Limits)
    assert section.choose.at_most["fairness"] < gate.limit


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
