"""docs/performance.md has a block for every part of `make bench`, which alone is written anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures.figure import Figure
from benchmarks.page import blocks, table, with_block
from benchmarks.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = """# Figures
<!-- measured: audits -->
| old |
<!-- end -->
By hand.
<!-- measured: online -->
| kept |
<!-- end -->
"""


def test_each_part_has_a_script_and_a_block() -> None:
    assert sorted(blocks((ROOT / "docs" / "performance.md").read_text())) == sorted(PARTS)
    for name in PARTS.keys() - {"demo", "tests"}:
        assert (ROOT / "benchmarks" / f"{name}.py").exists()


def test_a_part_is_written_into_its_block_alone() -> None:
    lines = table(
        "2026-11-30", [Figure("an audit", "60 s", "20 s", "58 s", kept=True, aim_reached=False)], []
    )
    page = with_block(PAGE, "audits", lines)
    assert "| an audit | 60 s | 20 s | 58 s | kept, aim missed |\n<!-- end -->\nBy hand." in page
    assert "old" not in page
    assert page.endswith("<!-- measured: online -->\n| kept |\n<!-- end -->\n")


def test_a_part_without_a_block_says_where_to_write_it() -> None:
    with pytest.raises(LookupError, match="no block for trees: write `<!-- measured: trees -->`"):
        with_block(PAGE, "trees", [])
