"""Quality of the searches on trials that are really trained: `python benchmarks/search.py`.

The first split of credit-risk, the default space, no folds; of the training rows `--rows`, so that a
trial takes half a second. `--pool` random trials are run once; what random searches would have found
is drawn from them. The other searches are run with `--seeds` seeds each. What a trial measured stays
in a file of lines, search.jsonl beside this one, by a digest of its choices, and none is run twice: a
run that was broken off goes on where it was. A change to how a trial is trained makes the lines
worthless: delete them then.
"""

from __future__ import annotations

import argparse
import hashlib
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
MEASURED = ("train_loss", "validation_loss", "auroc", "equalized_odds_difference.age")
"""Measures that the objectives are made of, with six digits: a study is the same when heard again."""
KEPT = Path(__file__).with_suffix(".jsonl")
ROWS = 1_000
DRAWS = 2_000
WEIGHTS = 51  # of both losses in ONE together: figures are in the unit of a loss
MUST_DIFFERENCE, MUST_AREA = 0.0004, 0.95
"""Upper bound of a search's lowest loss above random's; hypervolume of its front over random's."""

Choices = dict[str, Any]
Metrics = dict[str, float]


class Kept:
    """Metrics of trials, None of failed ones, in a file of lines by a digest of rows and choices."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._rows = path, rows
        lines = path.read_text().splitlines() if path.exists() else []
        self._known: dict[str, list[float] | None] = dict(map(json.loads, lines))

    def __contains__(self, choices: Choices) -> bool:
        return self._name(choices) in self._known

    def __getitem__(self, choices: Choices) -> Metrics | None:
        values = self._known[self._name(choices)]
        return None if values is None else dict(zip(MEASURED, values, strict=True))

    def add(self, choices: Choices, metrics: Metrics | None) -> None:
        whole = metrics is not None and metrics.keys() >= {*MEASURED}
        values = [round(metrics[name], 6) for name in MEASURED] if metrics and whole else None
        line = self._name(choices), values
        self._known |= [line]
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _name(self, choices: Choices) -> str:
        said = json.dumps([self._rows, choices], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


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


def run(studies: Sequence[Study], kept: Kept, chosen: argparse.Namespace) -> None:
    """Runs one study after the other, as many of them side by side as trials run at once."""
    with tempfile.TemporaryDirectory() as scratch:
        loans(Path(scratch), chosen.rows)
        work = Workbench(folder=Path(scratch, "work"))
        parts = [Path(scratch, f"{part}.parquet") for part in ("train", "validation")]
        work.fill(*parts, studies[0].pipeline, folds=1)
        pool = ProcessPool(work, at_once=chosen.at_once)
        try:
            search(studies, pool, kept, chosen.rows)
        finally:
            pool.close()


def search(studies: Sequence[Study], pool: ProcessPool, kept: Kept, rows: int) -> None:
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
                waiting.insert(0, study)
                print(f"\r{started} trials", end="", file=sys.stderr)


def loans(folder: Path, rows: int) -> None:
    """Writes train and validation part of the first split, with the group of each row; of the training
    rows the first so many, which are drawn as the split is.
    """
    data = quality.credit_risk()
    _, parts = next(quality.splits(len(data.features), 1))
    parts = {"train": parts["train"][:rows], "validation": parts["validation"]}
    quality.write(data, parts, folder)
    applications, _ = quality.module("credit-risk").loans()
    for part in parts:
        path = folder / f"{part}.parquet"
        group = pa.array(applications["age"].to_numpy(dtype=float)[parts[part]])
        pq.write_table(pq.read_table(path).append_column("__group_age", group), path)


# -- figures -----------------------------------------------------------------------------------------


def lowest(tried: Sequence[Tried]) -> float:
    return min(one.values[0] for one in tried if one.values) / WEIGHTS


def area(tried: Sequence[Tried], worst: Sequence[float]) -> float:
    """Hypervolume of two objectives below `worst`."""
    found, height = 0.0, worst[1]
    for first, second in sorted(one.values for one in front(tried) if one.values):
        found += max(0.0, worst[0] - first) * max(0.0, height - second)
        height = min(height, second)
    return found


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
    """Compares one search with random searches of as many trials."""
    size = studies[0].trials
    told: dict[str, Any] = {"search": kind, "trials": size, "seeds": len(studies), "pool": len(pool.tried)}
    if kind == "genetic":
        return told | of_fronts(pool.judged(TWO), [study.tried for study in studies])
    found = [lowest(study.tried) for study in studies]
    random = drawn(pool.judged(ONE), size, lowest)
    measured = bound(found, random)
    return told | {
        "mean": float(np.mean(found)),
        "random": float(random.mean()),
        "measured": measured,
        "won": float(np.greater.outer(random, found).mean()),
        "kept": measured <= MUST_DIFFERENCE,
    }


def of_fronts(known: Sequence[Tried], searched: Sequence[Sequence[Tried]]) -> dict[str, Any]:
    """Hypervolumes below the worst values of all random trials; `inner`: the ratio of those below the
    worst values of these trials' front, which tells fronts apart that are nearly as good.
    """
    size, ratios = len(searched[0]), []
    for among in (known, front(known)):
        worst = np.max([one.values for one in among], axis=0)
        found = [area(tried, worst) for tried in searched]
        random = drawn(known, size, lambda tried, worst=worst: area(tried, worst))
        ratios.append((np.mean(found), random.mean(), np.less.outer(random, found).mean()))
    (mean, chance, won), (inner, inner_chance, _) = ratios
    return {
        "mean": float(mean),
        "random": float(chance),
        "measured": float(mean / chance),
        "inner": float(inner / inner_chance),
        "won": float(won),
        "kept": bool(mean / chance >= MUST_AREA),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="file of what trials measured")
    parser.add_argument("--rows", type=int, default=ROWS, help="to train on")
    parser.add_argument("--pool", type=int, default=400)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--front", type=int, default=80, help="trials of a search with two objectives")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one line, and no exit code for a miss")
    parser.add_argument("--only", nargs="*", default=["tpe", "evolution", "genetic"])
    parser.add_argument("--only-kept", action="store_true", help="run nothing, judge what the file has")
    chosen = parser.parse_args()
    kept = Kept(chosen.kept, chosen.rows)
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
    if not chosen.only_kept:
        # Seed by seed, so that a run that is broken off has measured each search.
        run([pool, *(one for seed in zip(*searched.values(), strict=True) for one in seed)], kept, chosen)
    pool.next(kept)
    found = []
    for kind, studies in searched.items():
        ended = [one for one in studies if one.next(kept) is None]
        if len(ended) > 1:
            found.append(figure(kind, pool, ended))
    print(json.dumps(found, indent=None if chosen.json else 1))
    sys.exit(0 if chosen.json or all(row["kept"] for row in found) else 1)


if __name__ == "__main__":
    main()
