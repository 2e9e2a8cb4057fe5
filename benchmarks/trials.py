"""Costs of trials as Penstock runs them: `python benchmarks/trials.py`, against plain Optuna
that hands the same trials to two worker processes, which prepare once and stay.

The first split of credit-risk, the default space, no folds, two trials at once. Both fit the same
configurations. Penstock also compiles each, checks the graph on every row, and measures it.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import quality

from penstock.contracts.load import read_data
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import planned
from penstock.testing.threads import beside
from penstock_tuner.driver import Driver
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench

ROOT = Path(__file__).resolve().parents[1]
TRIALS, AT_ONCE, REPEATS = 25, 2, 3  # the first one starts the clock, 24 follow it
SPEC = {
    **read_data((ROOT / "examples" / "credit-risk" / "pipeline.yaml").read_text()),
    "tuner": {"type": "random", "budget": {"trials": TRIALS}, "at_once": AT_ONCE},
}


@dataclass
class Took:
    """`first_s`: until the first trial ended; `rest_s`: from there to the last; `memory`: the most that
    the caller's child processes held, PSS in bytes.
    """

    first_s: float
    rest_s: float
    processor_s: float
    memory: int


def timed(run: Callable[[Callable[[], None]], None]) -> Took:
    """`run` calls what it is given whenever a trial ends."""
    ends: list[float] = []
    most = 0

    def look(over: threading.Event) -> None:
        nonlocal most
        while not over.wait(0.3):
            held = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    held += child.memory_full_info().pss
                except psutil.Error:  # it has just ended
                    continue
            most = max(most, held)

    with beside(look):
        began, before = time.monotonic(), _children_s()
        run(lambda: ends.append(time.monotonic()))
    return Took(ends[0] - began, ends[-1] - ends[0], _children_s() - before, most)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def penstock(parts: Sequence[Path], rows: int, folder: Path) -> tuple[Took, list[dict[str, Any]]]:
    """Runs the study; also gives the overrides of its trials."""
    asked: list[dict[str, Any]] = []

    def run(ended: Callable[[], None]) -> None:
        work = Workbench(folder=folder)
        pool = ProcessPool(work, at_once=AT_ONCE, families=("boosted_trees", "mlp", "linear"))

        def tell(message: Any) -> None:
            if "started" in message:
                asked.append(message["started"]["overrides"])
            elif "ended" in message:
                assert message["ended"]["state"] == "complete", message
                ended()

        try:
            work.fill(*parts, Pipeline.model_validate(SPEC), 1)
            Driver(SPEC, rows, (), pool, tell, began=time.monotonic(), looks=1).run()
        finally:
            pool.close()

    return timed(run), asked


def plain(parts: Sequence[Path], rows: int, trials: Sequence[dict[str, Any]]) -> Took:
    def run(ended: Callable[[], None]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        context = multiprocessing.get_context("spawn")
        waiting, told = context.Queue(), context.Queue()
        workers = [
            context.Process(target=work, args=(waiting, told, parts, rows), daemon=True)
            for _ in range(AT_ONCE)
        ]
        for worker in workers:
            worker.start()
        for overrides in trials:
            waiting.put((study.ask().number, overrides))
        for _ in trials:
            study.tell(*told.get())
            ended()
        for _ in workers:
            waiting.put(None)
        for worker in workers:
            worker.join()

    return timed(run)


def work(waiting: Any, told: Any, parts: Sequence[Path], rows: int) -> None:
    """Works as one of Optuna's workers: prepares once a family, fits, and tells the objective."""
    from penstock.modelkit.build import prepare
    from penstock.modelkit.family import family_of
    from penstock.modelkit.metrics import loss

    known: dict[str, Any] = {}
    for number, overrides in iter(waiting.get, None):
        pipeline = planned(overridden(SPEC, overrides), rows).pipeline
        kind = pipeline.model.type
        if kind not in known:
            known[kind] = prepare(pipeline, *parts)
        model = family_of(pipeline.model).fit(pipeline, known[kind])
        train, validation = (
            loss("binary", part.rows.labels, model.predict(part.inputs))
            for part in (known[kind].train, known[kind].validation)
        )
        told.put((number, train + 50 * validation))


def main() -> None:
    data = quality.credit_risk()
    order = np.random.default_rng(0).permutation(len(data.features))
    train, validation = round(0.6 * len(order)), round(0.7 * len(order))
    split = {"train": order[:train], "validation": order[train:validation]}
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for repeat in range(REPEATS):
            quality.write(data, split, folder)
            took, trials = penstock(
                [folder / f"{part}.parquet" for part in split], train, folder / f"{repeat}"
            )
            ours.append(took)
            quality.write(data, split, folder)
            theirs.append(plain([folder / f"{part}.parquet" for part in split], train, trials))
    figures = {
        name: {
            field: round(statistics.median(getattr(took, field) for took in runs), 2)
            for field in vars(runs[0])
        }
        for name, runs in (("penstock", ours), ("optuna", theirs))
    }
    print(json.dumps({"trials": TRIALS - 1, "repeats": REPEATS, **figures}))


if __name__ == "__main__":
    main()
