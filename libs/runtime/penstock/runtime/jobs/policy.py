"""Policy of restarts: how often a job is started again, and after which delay. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from penstock.contracts.errors import TREATMENTS, Kind

REFUSALS = 20  # starts that may end in an error of a kind that may pass, about ten minutes in all
LONGEST_DELAY_S = 30.0


@dataclass(frozen=True)
class Failure:
    """Reason why a job ends without a result."""

    kind: Kind
    message: str
    remedy: str

    @property
    def may_pass(self) -> bool:
        return TREATMENTS[self.kind].retry

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Failure:
        """Reads the error that a child process tells."""
        where = f"{told['where']}: " if told.get("where") else ""
        # PostgreSQL stores no NUL.
        message, remedy = (
            text.replace("\0", "\ufffd") for text in (where + told["message"], told.get("remedy") or "")
        )
        return cls(Kind(told["kind"]), message, remedy)


@dataclass(frozen=True)
class Policy:
    """Bounds of one kind of job in one replica.

    `attempts`: starts whose process may crash; those that the service's own end cut short are not
    counted. `parallel`: jobs at once. `lease`: time without a renewal after which another replica
    may take the job. `backoff_s`: seconds before the second start, doubled for each further one, up
    to `LONGEST_DELAY_S`.
    """

    attempts: int = 3
    parallel: int = 1
    lease: timedelta = timedelta(seconds=15)
    backoff_s: float = 1.0

    def delay_s(self, cause: Literal["crashes", "refusals"], times: int) -> float | None:
        """Seconds until the next start after a process crashed, or an error that may pass came, so many
        times; None where those were too many.
        """
        allowed = self.attempts if cause == "crashes" else REFUSALS + 1
        return min(self.backoff_s * 2.0 ** (times - 1), LONGEST_DELAY_S) if times < allowed else None


DEFAULT_POLICY = Policy()


def crashed(code: int, crashes: int) -> Failure:
    """Failure of a job whose process ended with `code`, the last of `crashes` times."""
    times = f"{crashes} times, the last time it" if crashes > 1 else "and"
    remedy = (
        "SIGKILL often means that memory ran out"
        if code == -signal.SIGKILL
        else "Look for job_crashed in the service's log"
    )
    return Failure(Kind.INTERNAL, f"its process died {times} {how_it_died(code)}", remedy)


def how_it_died(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no result"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
