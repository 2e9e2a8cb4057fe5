"""Trial of a version that has just begun to serve: it is taken back where it fails or is slow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Bounds on the first calls of a version, beyond which the one before it serves again."""

    calls: int  # length of the trial
    errors: float  # largest share of calls that fail
    p99_ms: float  # largest 99th percentile of the time that a row takes


@dataclass
class Trial:
    """Counts of the first calls. A verdict falls as soon as the rest of them cannot change it."""

    bounds: Bounds
    calls: int = 0
    failures: int = 0
    slow: int = 0

    @property
    def ends(self) -> bool:
        """Tells whether the last call that was counted ended it."""
        return self.calls == self.bounds.calls

    def answered(self, row_ms: float) -> str | None:
        """Counts a call that took `row_ms` a row. Returns the reason to take the version back."""
        self.slow += row_ms > self.bounds.p99_ms
        return self._verdict()

    def failed(self) -> str | None:
        """Counts a call on which the graph failed. Returns the reason to take the version back."""
        self.failures += 1
        return self._verdict()

    def _verdict(self) -> str | None:
        self.calls += 1
        if self.calls > self.bounds.calls:
            return None
        if self.failures > self.bounds.errors * self.bounds.calls:
            return f"{self.failures} of its first {self.calls} calls failed"
        if self.slow > self.bounds.calls / 100:
            return f"{self.slow} of its first {self.calls} calls took over {self.bounds.p99_ms:g} ms a row"
        return None
