"""Figures of the embedded stack: its demo, what it takes idle, its tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figures.figure import Figure


def of_demo(seconds: float) -> Iterator[Figure]:
    measured = f"{seconds:.0f} s"
    yield Figure("`make demo` after set-up", "4 min", "2 min", measured, seconds <= 240, seconds <= 120)


def of_tests(seconds: float) -> Iterator[Figure]:
    measured = f"{seconds / 60:.1f} min"
    yield Figure("`make test`", "10 min", "8 min", measured, seconds <= 600, seconds <= 480)


def of_idle(found: dict[str, Any]) -> Iterator[Figure]:
    memory, cpu = found["programs"]["all"]["pss_mb"] / 1000, found["programs"]["all"]["cpu_percent"]
    yield Figure(
        "idle embedded stack after the demo: memory (PSS)",
        "1.8 GB",
        "1.4 GB",
        f"{memory:.2f} GB",
        memory <= 1.8,
        memory <= 1.4,
    )
    yield Figure("the same: CPU of one core", "12 %", "8 %", f"{cpu:.1f} %", cpu <= 12, cpu <= 8)


def each_program(found: dict[str, Any]) -> Iterator[str]:
    """Memory and processor of every program of the idle stack, the largest first."""
    yield "| program | memory (PSS) | CPU of one core |"
    yield "|---|---|---|"
    programs = [(name, one) for name, one in found["programs"].items() if name != "all"]
    for name, one in sorted(programs, key=lambda item: -item[1]["pss_mb"]):
        yield f"| {name} | {one['pss_mb']:.0f} MB | {one['cpu_percent']:.1f} % |"
