"""Each check of `make check` that holds the house together, on a copy with one thing spoiled: it
fails and says where.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.checkout import copied, make

pytestmark = pytest.mark.process("unhurried")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("copy"))


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


def add(file: Path, line: str) -> None:
    file.write_text(file.read_text() + line + "\n")


def test_unspoiled_they_pass(copy: Path) -> None:
    for target in ("check-imports", "check-generated", "check-contracts"):
        assert make(copy, target)[0] == 0, make(copy, target)[1]


def test_imports_that_the_house_forbids_are_found(spoil: Path) -> None:
    forbidden = {
        "services/ingest/penstock_ingest/intake.py": "import penstock_trainer",
        "libs/runtime/penstock/runtime/router.py": "import penstock_ingest",
        "libs/contracts/penstock/contracts/rules/__init__.py": "import penstock.runtime",
        "libs/measures/penstock/measures/weighted.py": "import scipy",
        "libs/serving/penstock/serving/model.py": "import penstock.runtime",
        "services/ethics_audit/penstock_ethics_audit/gates.py": "import torch",
        "services/model_registry/penstock_model_registry/store.py": "import pandas",
        "libs/client/penstock/client/runs.py": "import feast",
    }
    for file, line in forbidden.items():
        assert (spoil / file).exists(), file
        add(spoil / file, line)
    code, said = make(spoil, "check-imports")
    assert code != 0
    assert f"0 kept, {len(forbidden)} broken" in said, said


def test_a_list_of_services_that_was_changed_by_hand_is_named(spoil: Path) -> None:
    changed = {
        "docker-compose.yml": "ethics-audit:9185",
        "deploy/compose/cluster.yaml": "PENSTOCK_TRAINER__REPLICA",
        "deploy/compose/observability.yaml": "  ethics-audit: {environment",
        "deploy/compose/s3.yaml": "  ethics-audit: {<<: *there",
        "deploy/compose/postgres/roles.sh": "own ethics_audit",
        ".env": "# ETHICS_AUDIT_MEMORY=2g",
        "pyproject.toml": '    "services/ethics_audit"',
    }
    for file, line in changed.items():
        text = (spoil / file).read_text()
        assert text.count(line) == 1, file
        (spoil / file).write_text(text.replace(line, f"{line}_by_hand"))
    code, said = make(spoil, "check-generated")
    assert code != 0
    assert f"differ from the code: {', '.join(changed)}" in said, said


def test_a_file_that_lost_the_place_of_its_services_is_named(spoil: Path) -> None:
    file = spoil / "docker-compose.yml"
    file.write_text(file.read_text().replace("  # end peers\n", ""))
    code, said = make(spoil, "check-generated")
    assert code != 0
    assert "docker-compose.yml: needs its lines `begin peers` and `end peers`, once" in said, said


def test_a_service_without_a_row_and_a_row_without_a_service_are_named(spoil: Path) -> None:
    (spoil / "services" / "ingest" / "pyproject.toml").rename(spoil / "services" / "pyproject.toml")
    (spoil / "services" / "stray").mkdir()
    (spoil / "services" / "pyproject.toml").rename(spoil / "services" / "stray" / "pyproject.toml")
    code, said = make(spoil, "check-generated")
    assert code != 0
    assert "ingest, stray: a folder in services/ and a row in libs/contracts/" in said, said


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "libs/stubs/penstock/ingest/v1/ingest_pb2_grpc.py",
            "The stubs are not those of proto/: run make gen",
        ),
        ("deploy/images/torch.txt", "deploy/images/torch.txt"),
        ("deploy/observability/grafana/dashboards/flow.json", "flow.json"),
    ],
)
def test_a_generated_file_that_was_changed_by_hand_is_named(spoil: Path, file: str, said: str) -> None:
    add(spoil / file, "# by hand")
    code, printed = make(spoil, "check-generated")
    assert code != 0
    assert said in printed, printed


def test_a_published_example_that_breaks_its_schema_is_named(spoil: Path) -> None:
    example = spoil / "schemas" / "examples" / "AuditStarted.json"
    example.write_text(example.read_text().replace('"pipeline": "', '"pipelines": "'))
    code, printed = make(spoil, "check-contracts")
    assert code != 0
    assert "schemas/examples/AuditStarted.json: $: 'pipeline' is a required property" in printed, printed
