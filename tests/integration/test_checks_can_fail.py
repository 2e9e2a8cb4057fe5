"""Each check of `make check` that holds the house together, on a copy with one thing spoiled: it
fails and says where.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files as they stand."""
    folder = tmp_path_factory.mktemp("copy")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    return folder


@pytest.fixture
def spoil(copy: Path) -> Iterator[Path]:
    """The copy, mended afterwards."""
    kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    yield copy
    for path in copy.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    for path, content in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def check(folder: Path, target: str) -> tuple[int, str]:
    """`make TARGET` with this environment's tools and the folder's own sources."""
    members = [
        str(path.parent)
        for path in sorted(folder.glob("libs/*/pyproject.toml"))
        + sorted(folder.glob("services/*/pyproject.toml"))
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    done = subprocess.run(
        ["make", "--old-file", "setup", target],
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join(members)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def add(file: Path, line: str) -> None:
    file.write_text(file.read_text() + line + "\n")


def test_unspoiled_they_pass(copy: Path) -> None:
    for target in ("check-imports", "check-generated", "check-contracts"):
        assert check(copy, target)[0] == 0, check(copy, target)[1]


def test_imports_that_the_house_forbids_are_found(spoil: Path) -> None:
    forbidden = {
        "services/ingest/penstock_ingest/intake.py": "import penstock_trainer",
        "libs/runtime/penstock/runtime/router.py": "import penstock_ingest",
        "libs/contracts/penstock/contracts/rules/__init__.py": "import penstock.runtime",
        "libs/measures/penstock/measures/weighted.py": "import scipy",
        "services/ethics_audit/penstock_ethics_audit/gates.py": "import torch",
        "services/model_registry/penstock_model_registry/store.py": "import pandas",
        "libs/client/penstock/client/runs.py": "import feast",
    }
    for file, line in forbidden.items():
        assert (spoil / file).exists(), file
        add(spoil / file, line)
    code, said = check(spoil, "check-imports")
    assert code != 0
    assert "0 kept, 7 broken" in said, said


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "libs/stubs/penstock/ingest/v1/ingest_pb2_grpc.py",
            "The stubs are not those of proto/: run make gen",
        ),
        ("deploy/images/trainer.txt", "deploy/images/trainer.txt"),
        ("deploy/observability/grafana/dashboards/flow.json", "flow.json"),
    ],
)
def test_a_generated_file_that_was_changed_by_hand_is_named(spoil: Path, file: str, said: str) -> None:
    add(spoil / file, "# by hand")
    code, printed = check(spoil, "check-generated")
    assert code != 0
    assert said in printed, printed


def test_a_published_example_that_breaks_its_schema_is_named(spoil: Path) -> None:
    example = spoil / "schemas" / "examples" / "AuditStarted.json"
    example.write_text(example.read_text().replace('"pipeline": "', '"pipelines": "'))
    code, printed = check(spoil, "check-contracts")
    assert code != 0
    assert "schemas/examples/AuditStarted.json: $: 'pipeline' is a required property" in printed, printed
