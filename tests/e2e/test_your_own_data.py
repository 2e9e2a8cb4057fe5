"""docs/your-own-data.md, word by word, with three tables that are made for it."""

from __future__ import annotations

import csv
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from census import ROOT, run_penstock

from penstock.client.guess.table import read_table
from penstock.contracts.load import read
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.journey import Journey
from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack

PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
ROWS = 400
Rows = Iterator[list[object]]


def two_labels(draw: random.Random) -> Rows:
    """A table as one wishes it: an id, a time, a protected column, two labels."""
    yield ["loan_id", "applied_at", "income", "purpose", "sex", "defaulted"]
    for number in range(ROWS):
        income = draw.randrange(500, 5000)
        bad = draw.random() < (0.95 if income < 2000 else 0.05)
        when = f"2026-{1 + number // 40:02d}-{1 + number % 28:02d}"
        yield [
            f"l{number}",
            when,
            income,
            draw.choice(["car", "home"]),
            draw.choice("fm"),
            "yes" if bad else "no",
        ]


def gaps_and_odd_columns(draw: random.Random) -> Rows:
    """No id, no time, marks of missing, names that are none, a twin of the answer."""
    yield ["hours-per-week", "Größe (cm)", "native-country", "note", "answer code", "Target?"]
    for _ in range(ROWS):
        hours = draw.randrange(1, 60)
        good = hours + draw.gauss(0, 5) > 30
        gap = draw.random() < 0.1
        note = " ".join(draw.choices(["works", "at", "night", "and", "day"], k=5))
        size = "?" if gap else draw.randrange(150, 200)
        yield [hours, size, draw.choice(["here", "there"]), note, "AB"[good], int(good)]


def many_classes(draw: random.Random) -> Rows:
    yield ["plant_id", "petal", "sepal", "kind"]
    for number in range(ROWS):
        kind = draw.randrange(5)
        yield [number, kind + draw.gauss(0, 0.35), draw.gauss(kind % 2, 0.3), f"kind {kind}"]


@pytest.mark.parametrize(
    "made",
    [
        gaps_and_odd_columns,
        pytest.param(two_labels, marks=pytest.mark.slow),
        pytest.param(many_classes, marks=pytest.mark.slow),
    ],
)
def test_the_page_leads_from_a_table_to_a_served_model(
    stack: StackUnderTest, tmp_path: Path, made: Callable[[random.Random], Rows]
) -> None:
    name = made.__name__.replace("_", "-")
    with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter=";").writerows(made(random.Random(7)))
    done = [line for line in commands() if "penstock up" not in line]
    assert len(done) == 10
    version = entity = ""
    for line in done:
        if "approve" in line and not stack.client.audits.reviews(name):
            continue  # nothing waits for a person
        if "predict" in line:
            Journey(stack.client).until_served(name, version)
        said = follow(line.replace("VERSION", version).replace("ID", entity), stack, tmp_path, name)
        if "publish" in line:
            assert f"{ROWS} records, 0 duplicates, 0 rejects" in said
            entity = an_entity(tmp_path / f"{name}.yaml", said)
        if "train" in line:
            version = stack.client.models.list(name)[0].digest
    assert stack.client.models.get(version).state == registry.Version.STATE_PROMOTED
    header, *lines = (tmp_path / f"{name}.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / f"{name}.csv").write_bytes(b"".join([header, *reversed(lines)]))
    again = follow(f".venv/bin/penstock publish {name} events {name}.csv", stack, tmp_path, name)
    assert f"0 records, {ROWS} duplicates, 0 rejects" in again


def commands() -> list[str]:
    return "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).strip().splitlines()


def follow(line: str, stack: StackUnderTest, folder: Path, name: str) -> str:
    command = line.replace(".venv/bin", str(Path(sys.executable).parent)).replace("loans", name)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | {"PENSTOCK_HOME": str(stack.home), "COLUMNS": "160", "BROWSER": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def an_entity(file: Path, published: str) -> str:
    """An entity of the data: by the file's own column, or as publishing says that it named the first row."""
    pipeline = read(file.read_text())
    for column in read_table(file.with_suffix(".csv")).columns:
        if column.field == pipeline.key:
            return str(column.values[0])
    named = re.search(r"for predict and erase: (\S+)", published)
    assert named, published
    return named[1]


def test_a_file_that_ingest_rejects_is_told_and_nothing_can_be_trained_on(
    stack: StackUnderTest, tmp_path: Path
) -> None:
    text = (
        "version: 1\npipeline: thrown-away\nentities: {who: {key: who}}\n"
        "sources: {events: {entity: who, id: who, timestamp: at, fields:"
        " {x: {type: number, range: [0, 1]}, y: {type: boolean}}}}\n"
        "targets: {y: {from: events.y, type: binary}}\n"
    )
    (tmp_path / "pipeline.yaml").write_text(text)
    rows = "".join(f"{n},2026-01-01T00:00:00Z,{n + 5},true\n" for n in range(20))
    (tmp_path / "data.csv").write_text("who,at,x,y\n" + rows)
    assert run_penstock(stack, "apply", str(tmp_path / "pipeline.yaml")).returncode == 0
    nothing = run_penstock(stack, "train", "thrown-away")
    assert (nothing.returncode, "none was published" in nothing.stderr) == (1, True), nothing.stderr
    sent = run_penstock(stack, "publish", "thrown-away", "events", str(tmp_path / "data.csv"))
    assert sent.returncode == 1
    assert "0 records, 0 duplicates, 20 rejects (100.0%)" in sent.stdout
    assert "20 out_of_range: `x` is outside its range [0, 1] (row 1: 5)" in sent.stdout
    refused = run_penstock(stack, "train", "thrown-away")
    assert refused.returncode == 1
    assert "all 20 events were rejected (20 out_of_range)" in refused.stderr
    (tmp_path / "data.csv").write_text("who,at,z\n1,2026,3\n")
    misfit = run_penstock(stack, "publish", "thrown-away", "events", str(tmp_path / "data.csv"))
    assert (misfit.returncode, "column `z`" in misfit.stderr) == (2, True), misfit.stderr
