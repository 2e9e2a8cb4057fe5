"""`TrialPool` of processes on this machine, copies of one fork server that has loaded what trials need.

The fork server is a process of its own, so that the caller may have threads. Its life is tied to
the thread that made it, and the trials' to its own: `kill -9` of the caller ends all.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from penstock.contracts.errors import Conflict, Kind
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.jobs.fork_server import ForkServer
from penstock.runtime.jobs.policy import Failure, how_it_died
from penstock.runtime.marked import MARK, sweep
from penstock_tuner.pool.port import Ended, Reported
from penstock_tuner.pool.process import TrialProcess
from penstock_tuner.trials.measured import Measured
from penstock_tuner.trials.workbench import Workbench

LOOK_S = 0.05  # between two looks at what trials hold
GONE_S = 5.0  # for killed processes to be gone
MB = 1e6  # bytes
FAMILIES = "penstock.modelkit.families."
QUIET_S: Final = 600.0  # without a word after which a trial counts as hanging and is ended
USUAL = ("pyarrow.compute",)  # pyarrow imports it with the first numbers that are read


class ProcessPool:
    """Make it in the caller's main thread, and call it from there."""

    def __init__(
        self,
        work: Workbench,
        *,
        at_once: int = 1,
        memory: int | None = None,
        quiet_s: float = QUIET_S,
        module: str = "penstock_tuner.pool.child",
        environment: Mapping[str, str] | None = None,
        families: Iterable[str] = (),
    ) -> None:
        """`work` may be filled later. `memory`: bytes of its own over which a trial fails; `quiet_s`:
        seconds without a word after which it counts as hanging; `module` runs as each trial;
        `families`: types of models that are loaded from now on, so that the first trial finds them.
        """
        self._work, self._at_once, self._memory, self._quiet_s = work, at_once, memory, quiet_s
        started = dict(environment or {})
        self._sweeps = MARK not in os.environ  # else a pool of pools does
        if self._sweeps:
            sweep(work.folder)
            started[MARK] = str(work.folder)
        self._server = ForkServer(module, started)
        if load := [f"{FAMILIES}{name}" for name in families]:
            self._server.warm([*USUAL, *load])
        self._trials: dict[int, TrialProcess] = {}
        self._pipes = selectors.DefaultSelector()

    @property
    def free(self) -> int:
        return self._at_once - len(self._trials)

    def start(self, number: int, pipeline: Pipeline) -> None:
        if number in self._trials or self.free < 1:
            raise Conflict(f"trial {number} cannot start: {sorted(self._trials)} run, {self._at_once} may")
        trial = TrialProcess(number)
        request = {
            "pipeline": pipeline.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "work": self._work.model_dump(mode="json"),
        }
        trial.start(self._server, request, load=[*USUAL, f"{FAMILIES}{pipeline.model.type}"])
        for pipe in trial.pipes:
            self._pipes.register(pipe.fd, selectors.EVENT_READ, pipe)
        self._trials[number] = trial

    def wait(self, timeout_s: float) -> list[Reported | Ended]:
        until = time.monotonic() + timeout_s
        while True:
            found = [told for trial in list(self._trials.values()) for told in self._look(trial)]
            left = until - time.monotonic()
            if found or left <= 0 or not self._trials:
                return found
            for key, _ in self._pipes.select(min(left, LOOK_S)):
                if key.data.ended:  # it would be ready for ever
                    self._pipes.unregister(key.fd)

    def stop(self, number: int) -> None:
        if trial := self._trials.get(number):
            trial.stopped = True
            trial.kill()

    def close(self) -> None:
        for trial in self._trials.values():
            trial.kill()
        until = time.monotonic() + GONE_S
        while any(trial.runs for trial in self._trials.values()) and time.monotonic() < until:
            self.wait(LOOK_S)
        self._server.close()
        if self._sweeps:
            sweep(self._work.folder)
        for trial in self._trials.values():
            trial.close()
        self._trials.clear()
        self._pipes.close()

    def _look(self, trial: TrialProcess) -> Iterator[Reported | Ended]:
        end: Ended | None = None
        for said in trial.follow():
            match said:
                case {"epoch": epoch}:
                    yield _reported(trial.number, epoch)
                case {"measured": measured}:
                    end = Ended(trial.number, measured=Measured.model_validate(measured))
                case {"error": error}:
                    end = Ended(trial.number, failure=Failure.of(error))
        trial.end = end or trial.end
        if trial.gone:
            yield self._buried(trial)
        elif trial.why is None and (why := self._over(trial)):
            trial.why = why
            trial.kill()

    def _over(self, trial: TrialProcess) -> Failure | None:
        """Bound that the trial is over."""
        if self._memory is not None and (held := trial.own_memory()) > self._memory:
            return Failure(
                Kind.TOO_LARGE,
                f"it held {held / MB:,.0f} MB, allowed are {self._memory / MB:,.0f} MB",
                "Raise tuner.budget.memory, or narrow the space",
            )
        if trial.runs and time.monotonic() - trial.heard_at > self._quiet_s:
            return Failure(
                Kind.DEADLINE,
                f"it said nothing for {self._quiet_s:g} s and was ended",
                "Choose smaller models or fewer rows an epoch",
            )
        return None

    def _buried(self, trial: TrialProcess) -> Ended:
        """End of a trial whose process is gone; nothing that it started is left behind."""
        for pipe in trial.pipes:
            with suppress(KeyError):
                self._pipes.unregister(pipe.fd)
        trial.close()
        del self._trials[trial.number]
        if trial.stopped:
            return Ended(trial.number, stopped=True, cost=trial.cost)
        if trial.why is not None:
            return Ended(trial.number, failure=trial.why, cost=trial.cost)
        if trial.end is not None:
            return replace(trial.end, cost=trial.cost)
        return Ended(trial.number, failure=_died(trial), cost=trial.cost)


def _reported(number: int, epoch: Mapping[str, Any]) -> Reported:
    named = ("epochs", "validation_loss", "validation_metric", "metric")
    return Reported(number, epoch["number"], **{name: epoch[name] for name in named})


def _died(trial: TrialProcess) -> Failure:
    if trial.code is None:
        return Failure(Kind.UNAVAILABLE, "the process that trials are copied from died", "")
    said = f": {trial.last_lines[-1]}" if trial.last_lines else ""
    return Failure(Kind.INTERNAL, f"its process {how_it_died(trial.code)}{said}", "")
