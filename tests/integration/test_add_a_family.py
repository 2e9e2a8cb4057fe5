"""`docs/add-a-family.md`: what it writes, as it stands, makes a family that learns, survives a kill,
becomes a package as the trainer makes it, and that a pipeline file is held to. It is no network, and
needs no torch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.testing.checkout import ROOT, change, copied_members, follow, run_tests

PAGE = "docs/add-a-family.md"
SUITE = "libs/modelkit/tests/test_modelkit_families.py"
MODEL = "libs/contracts/penstock/contracts/pipeline/model.py"
STUMPS = "libs/modelkit/penstock/modelkit/families/stumps.py"

pytestmark = pytest.mark.process("unhurried")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two members with the page's family in them."""
    house = copied_members(tmp_path_factory.mktemp("house"), ("libs/contracts", "libs/modelkit"))
    touched = follow(PAGE, house, union="Member", keys=MODEL)
    assert touched == {MODEL, STUMPS}
    assert change((ROOT / PAGE).read_text(), house) == {SUITE}
    return house


@pytest.fixture(scope="module")
def told(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    members = [house / "libs/contracts", house / "libs/modelkit", ROOT / "libs/modelkit/tests"]
    ran = subprocess.run(
        [sys.executable, ROOT / "tests/integration/new_family.py", tmp_path_factory.mktemp("work")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, members))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_it_keeps_the_promises_of_every_family(house: Path) -> None:
    code, said = run_tests(house, SUITE, "-k", "stumps or every_type")
    assert code == 0, said
    assert "3 passed" in said, "both targets, and a module for every type"


def test_it_learns_without_torch_and_its_graph_answers_alike(told: Any) -> None:
    assert told["auroc"] > 0.9
    assert told["parity"] <= 1e-6
    assert told["torch"] is False


def test_it_becomes_a_package_with_a_card_of_its_own(told: Any) -> None:
    assert told["digest"].startswith("sha256:")
    assert (
        "- Type: stumps, 25 trees of one question. All preprocessing is inside the one ONNX" in told["card"]
    )
    assert "- Trained 25 rounds, seed 7." in told["card"]
    assert "- Between numpy and the graph in ONNX Runtime: at most" in told["card"]
    assert "| `purpose` | `rows.purpose` (category) | one hot |" in told["card"]
    assert "adamw" not in told["card"]


def test_its_keys_are_in_the_reference(told: Any) -> None:
    _, _, section = told["reference"].partition("### `type: stumps`")
    assert "| `shrinkage` | a number | `0.3` | Share of each tree's answer that counts. |" in section


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("optimizer", "file:19  trainer.optimizer: `stumps` is not trained by `optimizer`; there is"),
        ("hidden", "` and means nothing with `type: stumps`"),
        ("shrinkage", "file:18  model.shrinkage: `shrinkage` is for `type: stumps` and means nothing"),
        ("misspelt", "file:18  model.type: `stump` is not allowed; did you mean `stumps`?"),
        ("scale", "file:19  features.gap.scale: `stumps` takes numbers as they are; leave `scale` out"),
        ("encode", "features.p: `stumps` takes no `embedding`; leave the feature out, or use `one_hot`"),
        ("target", "model.type: `stumps` takes a binary or regression target, not multiclass"),
    ],
)
def test_what_it_does_not_do_is_refused_by_name(told: Any, case: str, said: str) -> None:
    found = told[case]
    assert len(found) == 1, found
    assert said in re.sub(r":\d+  ", "  ", found[0])  # line, no column


def test_a_run_may_leave_it_for_another(told: Any) -> None:
    assert told["override"] == {"type": "linear"}


def test_it_is_written_as_the_house_writes(house: Path) -> None:
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", ROOT / "pyproject.toml", "--quiet"]
        ran = subprocess.run([*command, house / MODEL, house / STUMPS], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout


@pytest.mark.slow  # mypy reads the whole house
def test_its_types_are_strict(house: Path) -> None:
    environment = os.environ | {"MYPYPATH": f"{house / 'libs/contracts'}:{house / 'libs/modelkit'}"}
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    ran = subprocess.run(
        [*command, house / MODEL, house / STUMPS],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stdout
