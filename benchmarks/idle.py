"""Cost of the embedded stack while nothing happens: memory (PSS) and CPU, program by program.

    python benchmarks/idle.py            # a stack of its own; --home HOME measures one that is up

PSS shares what processes share among them, so the parts add up to the whole. CPU is what all
processes of a program used over the minute, those too that began or ended in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.stack.stack import Stack, down, up
from penstock.stack.stackfile import StackFile

SETTLE_S = 20.0
"""Wait after the stack is ready: start-up work ends, allocators return what they can."""
TICKS = os.sysconf("SC_CLK_TCK")


def measure(stack: Stack, seconds: float = 60.0) -> dict[str, dict[str, float]]:
    """Measures by program and `all`: `pss_mb`, and `cpu_percent` of one core over `seconds`."""
    roots = {one.program: one.pid for one in stack.status() if one.pid is not None}
    before = {program: sum(map(ticks, tree(pid))) for program, pid in roots.items()}
    time.sleep(seconds)
    trees = {program: tree(pid) for program, pid in roots.items()}
    found = {
        program: {
            "pss_mb": sum(map(pss, pids)) / 1e6,
            "cpu_percent": (sum(map(ticks, pids)) - before[program]) / TICKS / seconds * 100,
        }
        for program, pids in trees.items()
    }
    found["all"] = {
        figure: sum(one[figure] for one in found.values()) for figure in ("pss_mb", "cpu_percent")
    }
    return found


def tree(pid: int) -> list[int]:
    return [pid, *descendants(pid)]


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            children = [int(child) for child in task.read_text().split()]
            found += children
            waiting += children
    return found


def ticks(pid: int) -> int:
    """User and system time in clock ticks, with that of the children that it has waited for: what one
    that ends has used goes to its parent. 0 for a process that has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def pss(pid: int) -> int:
    """Bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


@contextmanager
def own_stack() -> Iterator[tuple[Stack, float]]:
    """A stack in a folder of its own, and the seconds it took to come up."""
    home = Path(tempfile.mkdtemp(prefix="penstock-idle-"))
    try:
        started = time.monotonic()
        stack = up(home)
        yield stack, time.monotonic() - started
    finally:
        down(home)
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="of a stack that is up")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.home:
        found = {"programs": measure(Stack(StackFile.read(arguments.home)), arguments.seconds)}
    else:
        with own_stack() as (stack, up_s):
            time.sleep(SETTLE_S)
            found = {"up_s": up_s, "programs": measure(stack, arguments.seconds)}
    if arguments.json:
        print(json.dumps(found))
        return
    if "up_s" in found:
        print(f"up after {found['up_s']:.1f} s")
    for program, figures in found["programs"].items():
        print(f"{program:<15} {figures['pss_mb']:>7.0f} MB {figures['cpu_percent']:>6.1f} %")


if __name__ == "__main__":
    main()
