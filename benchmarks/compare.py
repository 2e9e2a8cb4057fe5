"""Two revisions in turn: `python benchmarks/compare.py REV [SCRIPT...]`, or `make bench-compare REV=…`.

REV is checked out beside this tree with an environment of its own, and each script of this folder
runs in both, one after the other, so that what else the machine does falls on both alike. Of every
number that both print: the medians, this tree's over REV's, and how far REV is from itself (its odd
rounds against its even ones), below which a difference says nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JARS = ROOT / ".cache" / "kafka" / "jars"
HOT_PATHS = ("ingest_throughput", "serving", "audits")


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A tree of the revision, set up, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="penstock-compare-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", tree, revision], cwd=ROOT, check=True
        )
        try:
            if JARS.is_dir():  # each is checked by its digest; those that REV has not are fetched
                shutil.copytree(JARS, tree / JARS.relative_to(ROOT))
            subprocess.run(["make", "--silent", "setup"], cwd=tree, check=True)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def figures(tree: Path, script: str) -> dict[str, float]:
    """Numbers that the script prints in that tree, by their path in its last line."""
    python = tree / ".venv" / "bin" / "python"
    command = [str(python), str(tree / "benchmarks" / f"{script}.py"), "--json"]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, check=True)
    return dict(numbers(json.loads(done.stdout.splitlines()[-1])))


def numbers(found: Any, at: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield from numbers(value, f"{at}.{key}" if at else str(key))
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from numbers(value, f"{at}.{index}")
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield at, float(found)


def lines(old: Sequence[dict[str, float]], new: Sequence[dict[str, float]]) -> Iterator[str]:
    """A line for each number that all rounds have; at least two rounds of each tree."""
    yield f"{'':44}{'old':>12}{'new':>12}{'new/old':>9}{'old/old':>9}"
    for name in old[0]:
        if not all(name in each for each in (*old, *new)):
            continue
        before, now = ([each[name] for each in rounds] for rounds in (old, new))
        itself = _over(statistics.median(before[1::2]), statistics.median(before[::2]))
        was, is_ = statistics.median(before), statistics.median(now)
        yield f"{name:44}{was:12.4g}{is_:12.4g}{_over(is_, was):>9}{itself:>9}"


def _over(above: float, below: float) -> str:
    return f"{above / below:.3f}" if below else "–"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision")
    parser.add_argument("scripts", nargs="*", default=HOT_PATHS, help=f"by default {', '.join(HOT_PATHS)}")
    parser.add_argument("--rounds", type=int, default=10, help="of each tree, at least 2")
    asked = parser.parse_args()
    if asked.rounds < 2:
        parser.error("a single round says nothing of its own spread: give --rounds 2 or more")
    with checked_out(asked.revision) as tree:
        for script in asked.scripts:
            old, new = [], []
            for number in range(asked.rounds):
                print(f"{script}, round {number + 1} of {asked.rounds}", flush=True)
                old.append(figures(tree, script))
                new.append(figures(ROOT, script))
            print("\n".join(lines(old, new)), flush=True)


if __name__ == "__main__":
    main()
