"""What is installed is what was resolved: every file of every package by its hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINNED = [
    ROOT / "requirements.lock",
    ROOT / "deploy" / "triton.lock",
    *(ROOT / "deploy" / "images").glob("*.txt"),
    *ROOT.glob("examples/*/requirements.txt"),
    ROOT / "benchmarks" / "tables" / "requirements.txt",
]
ENTRY = re.compile(r"[a-zA-Z0-9._-]+==[^\s;]+( ; [^\\]+)?( \\\n +--hash=sha256:[0-9a-f]{64})+")


@pytest.mark.parametrize("path", PINNED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_package_is_pinned_by_hash(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines).strip())
    assert entries
    assert [entry for entry in entries if not ENTRY.fullmatch(entry)] == []


def test_what_installs_them_asks_for_the_hashes() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert dockerfile.count("--requirement") == dockerfile.count("--require-hashes --requirement") == 3
    assert "--require-hashes requirements.lock" in (ROOT / "Makefile").read_text()
    assert '"--require-hashes"' in (ROOT / "examples" / "dataset.py").read_text()
