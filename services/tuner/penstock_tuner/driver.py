"""The search of one study: asks for values, starts trials with them, tells what came of each, and
chooses at the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import JsonValue

from penstock.contracts.errors import Kind, PenstockError
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import planned
from penstock.contracts.rules.tuner import passed_over
from penstock_tuner import ensemble, search
from penstock_tuner.budget import over
from penstock_tuner.choice import chosen
from penstock_tuner.pool.port import Ended, Reported, TrialPool
from penstock_tuner.search import Choices, Tried

Ending = Literal["complete", "failed", "pruned"]
AGAIN = 20  # trials that are begun again, of a study, because their node died
LOOK_S = 1.0  # between two looks at the clock while nothing is heard


class Driver:
    def __init__(
        self,
        spec: Mapping[str, JsonValue],
        rows: int,
        tried: Sequence[Tried],
        pool: TrialPool,
        tell: Callable[[Mapping[str, Any]], None],
        *,
        began: float,
        looks: int,
        last_failure: str = "",
    ) -> None:
        """`spec`: the pipeline file. `rows`: of the train part. `tried`: what earlier attempts began,
        and with numbers below 0 what is known from an earlier study. `tell`: where each trial's start
        and end go. `began`: by `time.monotonic`. `looks`: of each trial at validation rows.
        `last_failure`: of the trials that an earlier attempt began.
        """
        pipeline = Pipeline.model_validate(spec)
        self._spec, self._rows = spec, rows
        self._tuner, self._space = pipeline.tuner, search.space_of(pipeline)
        self._passed = passed_over(pipeline)
        self._pool, self._tell = pool, tell
        self._began, self._looks = began, looks
        self._known = [trial for trial in tried if trial.number < 0]
        self._tried = {trial.number: trial for trial in tried if trial.number >= 0}
        self._waiting = deque(trial for trial in tried if trial.state == "running")
        self._first = max(self._tried, default=-1) + 1
        self._last_failure = last_failure
        self._again = AGAIN

    def run(self) -> dict[str, Any]:
        """Searches until the budget is spent and the last trial has ended; blocks for that long. Returns
        what `chosen` does.
        """
        self._search()
        if choices := ensemble.choices(self._tuner, self._all()):
            self._start(self._next(), choices)
            self._search()
        tried = self._all()
        found = chosen(
            self._tuner, self._space, tried, self._last_failure, looks=self._looks, passed=self._passed
        )
        before = self._looks * sum(trial.state == "complete" for trial in self._known)
        return found | {"looks": found["looks"] + before}

    def _search(self) -> None:
        while self._over() is None or self._running():
            self._fill()
            for heard in self._pool.wait(LOOK_S):
                self._hear(heard)

    # -- trials ------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Starts as many trials as the pool has room for: first those that an earlier attempt left."""
        while self._pool.free:
            if self._waiting:
                trial = self._waiting.popleft()
                self._start(trial.number, trial.choices)
            elif self._over() is None:
                number = self._next()
                self._start(
                    number, search.ask(self._tuner, self._space, [*self._known, *self._all()], number)
                )
            else:
                return

    def _next(self) -> int:
        return max(self._tried, default=-1) + 1

    def _overrides(self, trial: Tried) -> dict[str, JsonValue]:
        if not trial.members:
            return self._space.overrides(trial.choices)
        members = (self._space.overrides(self._tried[number].choices) for number in trial.members)
        return ensemble.overrides(self._spec, self._rows, [*members])

    def _start(self, number: int, choices: Choices) -> None:
        trial = Tried(number=number, choices=choices, state="running", values=None)
        overrides = self._overrides(trial)
        begun = {"number": number, "choices": dict(choices), "overrides": overrides}
        self._tried[number] = trial
        try:
            pipeline = planned(overridden(self._spec, overrides), self._rows).pipeline
        except PenstockError as error:  # values that go each alone, and not together
            self._say(started={**begun, "family": ""})
            self._end(number, "failed", failure=str(error))
        else:
            self._say(started={**begun, "family": pipeline.model.type})
            self._pool.start(number, pipeline)

    def _hear(self, heard: Reported | Ended) -> None:
        if isinstance(heard, Reported):
            self._climb(heard)
            return
        cost: dict[str, Any] = {"processor_s": heard.cost.processor_s, "memory": heard.cost.peak_memory}
        if heard.failure is not None and heard.failure.kind is Kind.UNAVAILABLE and self._again > 0:
            self._again -= 1  # its node's fault, not its own
            self._waiting.append(self._tried[heard.number])
        elif heard.failure is not None:
            self._end(heard.number, "failed", failure=heard.failure.message, **cost)
        elif heard.measured is None:
            self._end(heard.number, "pruned", **cost)
        else:
            measured = heard.measured.model_dump()
            try:
                if self._tried[heard.number].members:
                    ensemble.check(self._tuner, heard.measured.metrics)
                values = search.value(self._tuner, heard.measured.metrics)
            except PenstockError as error:
                self._end(heard.number, "failed", failure=str(error), **measured)
            else:
                self._end(heard.number, "complete", values, **measured)

    def _climb(self, heard: Reported) -> None:
        """Stops a trial that is worse at a rung than the pruner lets pass."""
        trial = self._tried[heard.number]
        if trial.members:  # its epochs are those of one member after the other
            return
        loss = heard.validation_loss
        rungs = tuple(search.climbed(self._tuner, trial.rungs, heard.epoch, heard.epochs, loss))
        if rungs == trial.rungs:
            return
        self._tried[heard.number] = replace(trial, rungs=rungs)
        self._say(climbed={"number": heard.number, "rungs": rungs})
        if search.prunes(self._tuner, self._all(), heard.number):
            self._pool.stop(heard.number)

    def _end(self, number: int, state: Ending, values: tuple[float, ...] | None = None, **told: Any) -> None:
        losses, metrics = tuple(told.get("losses", ())), told.get("metrics", {})
        self._tried[number] = replace(
            self._tried[number], state=state, values=values, losses=losses, metrics=metrics
        )
        self._last_failure = told.get("failure", self._last_failure)
        ended = {"number": number, "state": state, "objectives": values, **told}
        self._say(ended=ended, best=self._best())

    def _say(self, **message: Any) -> None:
        self._tell({**message, "spent_s": round(self._spent_s(), 1)})

    # -- what is known -----------------------------------------------------------------------------

    def _all(self) -> list[Tried]:
        return [self._tried[number] for number in sorted(self._tried)]

    def _running(self) -> bool:
        return any(trial.state == "running" for trial in self._tried.values())

    def _best(self, tried: Sequence[Tried] | None = None) -> int | None:
        found = search.best(self._tuner, self._all() if tried is None else tried)
        return None if found is None else found.number

    def _spent_s(self) -> float:
        return time.monotonic() - self._began

    def _over(self) -> str | None:
        alone = [trial for trial in self._all() if not trial.members]
        return over(self._tuner.budget, self._all(), self._best(alone), self._spent_s(), self._first)
