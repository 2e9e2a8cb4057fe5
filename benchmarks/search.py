"""Quality of the searches on trials that are really trained: `python benchmarks/search.py KEPT`.

The first split of credit-risk, the default space, no folds. `--pool` random trials are run once;
what random searches would have found is drawn from them. The other searches are run with `--seeds`
seeds each. Every trial stays in the file KEPT by its choices, and none is run twice: a run that was
broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import quality

from penstock.contracts.load import read_data
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import planned
from penstock.contracts.space import Space
from penstock_tuner.pool.port import Ended
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.search import Tried, ask, front, space_of, value
from penstock_tuner.trials.workbench import Workbench

ONE = {"minimize": "train_loss + 50 * validation_loss"}
TWO = {
    "objectives": {"quality": "1 - auroc", "fairness": "equalized_odds_difference.age"},
    "choose": {"type": "knee"},
}
DRAWS = 2_000
WEIGHTS = 51  # of both losses in ONE together: figures are in the unit of a loss
MUST_DIFFERENCE, MUST_AREA = 0.0004, 0.95
"""Upper bound of a search's lowest loss above random's; hypervolume of its front over random's."""

Choices = dict[str, Any]
Metrics = dict[str, float]


class Kept:
    """Metrics of trials by their choices, None of failed ones, in a file of lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._known: dict[str, Metrics | None] = dict(map(json.loads, lines))

    def __contains__(self, choices: Choices) -> bool:
        return json.dumps(choices, sort_keys=True) in self._known

    def __getitem__(self, choices: Choices) -> Metrics | None:
        return self._known[json.dumps(choices, sort_keys=True)]

    def add(self, choices: Choices, metrics: Metrics | None) -> None:
        line = json.dumps(choices, sort_keys=True), metrics
        self._known |= [line]
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Study:
    """A search with one seed, asked for one trial after the other. The file's own values are no part."""

    spec: dict[str, Any]
    trials: int
    tried: list[Tried] = field(default_factory=list)
    metrics: list[Metrics | None] = field(default_factory=list)

    @cached_property
    def pipeline(self) -> Pipeline:
        return Pipeline.model_validate(self.spec)

    @cached_property
    def space(self) -> Space:
        return space_of(self.pipeline)

    def next(self, kept: Kept) -> Choices | None:
        """Choices that are to be run next: those that were run before are heard at once. None at the end."""
        while len(self.tried) < self.trials:
            choices = dict(ask(self.pipeline.tuner, self.space, self.tried, len(self.tried) + 1))
            if choices not in kept:
                return choices
            self.hear(choices, kept[choices])
        return None

    def hear(self, choices: Choices, metrics: Metrics | None) -> None:
        values = value(self.pipeline.tuner, metrics) if metrics else None
        self.tried.append(Tried(len(self.tried) + 1, choices, "complete" if values else "failed", values))
        self.metrics.append(metrics)

    def judged(self, section: dict[str, Any]) -> list[Tried]:
        """The trials with other objectives."""
        tuner = Pipeline.model_validate({**self.spec, "tuner": {"type": "random", **section}}).tuner
        return [
            Tried(number, {}, "complete", value(tuner, metrics))
            for number, metrics in enumerate(self.metrics)
            if metrics
        ]


def run(studies: Sequence[Study], rows: int, pool: ProcessPool, kept: Kept) -> None:
    """Runs the studies side by side, one trial of each at a time."""
    waiting, running = list(studies), dict[int, tuple[Study, Choices]]()
    started = 0
    while waiting or running:
        while waiting and pool.free:
            study = waiting.pop(0)
            if (choices := study.next(kept)) is None:
                continue
            started += 1
            running[started] = study, choices
            made = overridden(study.spec, study.space.overrides(choices))
            pool.start(started, planned(made, rows).pipeline)
        for word in pool.wait(1.0):
            if isinstance(word, Ended):
                study, choices = running.pop(word.number)
                kept.add(choices, word.measured.metrics if word.measured else None)
                waiting.append(study)
                print(f"\r{started} trials", end="", file=sys.stderr)


def loans(folder: Path) -> int:
    """Writes train and validation part of the first split, with the group of each row; returns rows to
    train on.
    """
    data = quality.credit_risk()
    _, parts = next(quality.splits(len(data.features), 1))
    quality.write(data, parts, folder)
    applications, _ = quality.module("credit-risk").loans()
    for part in ("train", "validation"):
        path = folder / f"{part}.parquet"
        group = pa.array(applications["age"].to_numpy(dtype=float)[parts[part]])
        pq.write_table(pq.read_table(path).append_column("__group_age", group), path)
    return len(parts["train"])


# -- figures -----------------------------------------------------------------------------------------


def lowest(tried: Sequence[Tried]) -> float:
    return min(one.values[0] for one in tried if one.values) / WEIGHTS


def area(tried: Sequence[Tried], worst: Sequence[float]) -> float:
    """Hypervolume of two objectives below `worst`."""
    corners = sorted(one.values for one in front(tried) if one.values)
    heights = [worst[1], *(corner[1] for corner in corners)]
    return sum(
        max(0.0, worst[0] - corner[0]) * max(0.0, height - corner[1])
        for corner, height in zip(corners, heights, strict=False)
    )


def drawn(pool: Sequence[Tried], size: int, judge: Callable[[Sequence[Tried]], float]) -> Any:
    """Findings of random searches of so many trials."""
    chance = np.random.default_rng(0)
    draws = (chance.choice(len(pool), size, replace=False) for _ in range(DRAWS))
    return np.array([judge([pool[int(one)] for one in draw]) for draw in draws])


def bound(found: Sequence[float], random: Any) -> float:
    """The 95 % upper bound of the mean difference; the error is that of the search's seeds."""
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    return float(np.mean(found) - random.mean() + 1.96 * error)


def figure(kind: str, pool: Study, studies: Sequence[Study]) -> dict[str, Any]:
    """One search against random searches of as many trials."""
    size = studies[0].trials
    if kind == "genetic":
        known = pool.judged(TWO)
        worst = np.max([one.values for one in known], axis=0)
        found = [area(study.tried, worst) for study in studies]
        random = drawn(known, size, lambda tried: area(tried, worst))
        measured = float(np.mean(found) / random.mean())
        kept, won = measured >= MUST_AREA, np.less.outer(random, found).mean()
    else:
        found = [lowest(study.tried) for study in studies]
        random = drawn(pool.judged(ONE), size, lowest)
        measured = bound(found, random)
        kept, won = measured <= MUST_DIFFERENCE, np.greater.outer(random, found).mean()
    return {
        "search": kind,
        "trials": size,
        "seeds": len(studies),
        "mean": float(np.mean(found)),
        "random": float(random.mean()),
        "measured": measured,
        "won": float(won),
        "kept": bool(kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kept", type=Path)
    parser.add_argument("--pool", type=int, default=400)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--front", type=int, default=80, help="trials of a search with two objectives")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one line, and no exit code for a miss")
    parser.add_argument("--only", nargs="*", default=["tpe", "evolution", "genetic"])
    chosen = parser.parse_args()
    spec = read_data((quality.EXAMPLES / "credit-risk" / "pipeline.yaml").read_text())

    def study(kind: str, trials: int, seed: int) -> Study:
        section = TWO if kind == "genetic" else ONE
        return Study({**spec, "tuner": {"type": kind, "seed": seed, **section}}, trials)

    pool = study("random", chosen.pool, 0)
    searched = {
        kind: [
            study(kind, chosen.front if kind == "genetic" else chosen.trials, seed)
            for seed in range(chosen.seeds)
        ]
        for kind in chosen.only
    }
    with tempfile.TemporaryDirectory() as scratch:
        rows = loans(Path(scratch))
        parts = [Path(scratch, f"{part}.parquet") for part in ("train", "validation")]
        work = Workbench(folder=Path(scratch, "work"))
        work.fill(*parts, pool.pipeline, folds=1)
        trials = ProcessPool(work, at_once=chosen.at_once)
        try:
            run(
                [pool, *(one for studies in searched.values() for one in studies)],
                rows,
                trials,
                Kept(chosen.kept),
            )
        finally:
            trials.close()
    found = [figure(kind, pool, studies) for kind, studies in searched.items()]
    print(json.dumps(found, indent=None if chosen.json else 1))
    sys.exit(0 if chosen.json or all(row["kept"] for row in found) else 1)


if __name__ == "__main__":
    main()
