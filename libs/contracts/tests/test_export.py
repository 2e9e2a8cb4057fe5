"""What is exported is compared with the code, and the comparison fails where it should."""

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.contracts import export


def test_what_was_written_is_up_to_date(tmp_path: Path) -> None:
    assert export.main([str(tmp_path)]) == 0
    assert export.main(["--check", str(tmp_path)]) == 0


@pytest.fixture(scope="module")
def exported() -> dict[str, str]:
    return export.exports()


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_text(f"{path.read_text()}more"), Path.unlink],
    ids=["changed", "missing"],
)
def test_stale_files_are_named(
    tmp_path: Path,
    exported: dict[str, str],
    spoil: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {
        "schemas/asyncapi.json",
        "schemas/events/AuditCompleted.json",
        "docs/metrics.md",
        "docs/pipeline-reference.md",
    }
    files = {tmp_path / name: text for name, text in exported.items()}
    export.written(files, check=False, of=tmp_path)
    for name in names:
        spoil(tmp_path / name)
    assert export.written(files, check=True, of=tmp_path) == 1
    said = capsys.readouterr().err
    assert {name for name in exported if name in said} == names
