"""A figure that is promised, as a row of docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    what: str
    must: str
    aim: str
    measured: str
    kept: bool
    aim_reached: bool = True

    def row(self) -> str:
        verdict = ("kept" if self.aim_reached else "kept, aim missed") if self.kept else "**missed**"
        return f"| {self.what} | {self.must} | {self.aim} | {self.measured} | {verdict} |"
