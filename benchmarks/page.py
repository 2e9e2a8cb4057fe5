"""docs/performance.md: text by hand, and between two marks a block for each part of `make bench`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.figures.figure import Figure

BLOCK = re.compile(r"<!-- measured: (\w+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def with_block(page: str, name: str, lines: Iterable[str]) -> str:
    """The page with a part's block written anew. Raises LookupError for a part without a block."""
    if name not in blocks(page):
        raise LookupError(f"docs/performance.md: no block for {name}: write `{mark(name)}` where it belongs")
    made = "\n".join((mark(name), *lines, "<!-- end -->", ""))
    return BLOCK.sub(lambda found: made if found[1] == name else found[0], page)


def blocks(page: str) -> list[str]:
    """Parts that have a block, as they follow each other."""
    return [found[1] for found in BLOCK.finditer(page)]


def mark(name: str) -> str:
    return f"<!-- measured: {name} -->"


def table(when: str, figures: Sequence[Figure], details: Sequence[str]) -> list[str]:
    """Lines of a block: figures beside what they must reach, then details. `when` heads the first
    column.
    """
    return [
        f"| {when} | must | aim | measured | |",
        "|---|---|---|---|---|",
        *(figure.row() for figure in figures),
        *(("", *details) if details else ()),
    ]
