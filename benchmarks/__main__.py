"""`make bench`: every figure that is promised, measured on this machine now, beside its baseline, and
written into its block of docs/performance.md. `make bench OF="audits online"`: those parts alone.

All of it takes about an hour on two cores, during which nothing else should run. A miss is written
down as one. `picks` and `search` take hours: what their scripts found in earlier runs is judged here,
and nothing is run; by themselves they go on where they were.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.page import table, with_block
from benchmarks.parts import ALONE, DEMO, ON_THE_DEMO, PARTS, TESTS, Part

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    when = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores of {processor()}"
    missed = 0
    for part, found in measured(chosen):
        figures = list(part.figures(found))
        PAGE.write_text(
            with_block(PAGE.read_text(), part.name, table(when, figures, list(part.details(found))))
        )
        for figure in figures:
            print(f"{'kept  ' if figure.kept else 'MISSED'}  {figure.what}: {figure.measured}", flush=True)
        missed += sum(not figure.kept for figure in figures)
    return 1 if missed else 0


def measured(chosen: Sequence[str]) -> Iterator[tuple[Part, Any]]:
    """Yields each chosen part with what its script found, as soon as it has."""
    if any(part.name in chosen for part in (DEMO, *ON_THE_DEMO)):
        yield from on_the_demo(chosen)
    for part in ALONE:
        if part.name in chosen:
            yield part, run(part)
    if TESTS.name in chosen:
        say("make test")
        began = time.monotonic()
        subprocess.run(["make", "test"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        yield TESTS, time.monotonic() - began


def on_the_demo(chosen: Sequence[str]) -> Iterator[tuple[Part, Any]]:
    """Measures a demo on a fresh home, then the chosen parts on the stack that it leaves."""
    home = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    environment = os.environ | {"PENSTOCK_HOME": str(home)}
    try:
        say("demo")
        began = time.monotonic()
        demo = ROOT / "examples" / "adult-income" / "demo.py"
        subprocess.run([sys.executable, demo], env=environment, check=True)
        if DEMO.name in chosen:
            yield DEMO, time.monotonic() - began
        for part in ON_THE_DEMO:
            if part.name in chosen:
                yield part, run(part, "--home", str(home))
    finally:
        subprocess.run([Path(sys.executable).parent / "penstock", "down"], env=environment, check=False)
        shutil.rmtree(home, ignore_errors=True)


def run(part: Part, *arguments: str) -> Any:
    """Runs a part's script, as often as it wants, and returns what it found."""
    say(part.name.replace("_", " "))
    found = [script(part.name, *own, *arguments) for own in part.runs]
    return found[0] if len(found) == 1 else {key: value for one in found for key, value in one.items()}


def script(name: str, *arguments: str) -> Any:
    """Runs a program beside this one and returns its figures, its last line. Those before it are the
    libraries' own.
    """
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--json", *arguments],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def say(what: str) -> None:
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
