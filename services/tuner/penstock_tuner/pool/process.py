"""A trial's process as the pool sees it."""

from __future__ import annotations

from penstock.runtime.jobs.forked_process import ForkedProcess
from penstock.runtime.jobs.policy import Failure
from penstock_tuner.pool.port import Ended


class TrialProcess(ForkedProcess):
    """`why`: reason for which the pool ended it, None where it did not; `end`: its end as it told it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.stopped = False
        self.why: Failure | None = None
        self.end: Ended | None = None
