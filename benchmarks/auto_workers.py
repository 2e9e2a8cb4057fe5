"""`training.workers: auto` against one worker on all cores' threads: `python benchmarks/auto_workers.py`,
some four minutes on two cores.

The examples' own files and data, and a wide network (512, 512; batches of 1,024) for two epochs on a
million rows of 50 numbers. Time of the whole training, with the measurements by which `auto` chooses
and the processes that it starts; in turns (auto, all, all, auto), the least of each.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import quality
import torch
from texts import text_reviews
from workers import fitting

from penstock.contracts.planning import planned
from penstock.modelkit.build import prepare
from penstock.modelkit.family import family_of
from penstock.modelkit.training import Loop, train
from penstock_trainer.workers.processes import Processes
from penstock_trainer.workers.spread import Spread

HIDDEN, BATCH, EPOCHS, ROWS = (512, 512), 1024, 2, 1_000_000
MUST = 1.05
EXAMPLES = (quality.adult_income, quality.credit_risk, quality.machine_telemetry, text_reviews)
Training = Callable[[Loop], object]  # does it all, by that loop


def all_threads(*arguments: Any, **named: Any) -> Any:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        return train(*arguments, **named)
    finally:
        torch.set_num_threads(1)


def example(data: quality.Data) -> Training:
    """Training of the example's model on 60 of 100 of its rows."""
    _, parts = next(quality.splits(len(data.features), 1))
    pipeline = planned(data.pipeline(0), len(parts["train"])).pipeline
    assert pipeline.model.workers
    with tempfile.TemporaryDirectory() as folder:
        quality.write(data, parts, Path(folder))
        prepared = prepare(pipeline, *(Path(folder) / f"{part}.parquet" for part in ("train", "validation")))
    family: Any = family_of(pipeline.model)
    return lambda loop: family.fit(pipeline, prepared, loop=loop)


def wide() -> Training:
    """Training of the wide network, from the same weights each time."""
    given = fitting(HIDDEN, ROWS, BATCH, EPOCHS)

    def training(loop: Loop) -> object:
        torch.set_rng_state(given.random)
        network, parts = copy.deepcopy(given.network), (given.training, given.validation)
        return loop(network, given.objective, *parts, given.plan, seed=given.seed)

    return training


def by_auto(training: Training) -> tuple[float, str]:
    """Seconds, and the choice."""
    told: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="penstock-auto-") as folder:
        began = time.perf_counter()
        with closing(Processes(warm=False)) as workers:
            training(Spread(workers, "auto", Path(folder), told.append))
        return time.perf_counter() - began, told[0]["because"]


def by_all(training: Training) -> float:
    began = time.perf_counter()
    training(all_threads)
    return time.perf_counter() - began


def compared(training: Training) -> dict[str, Any]:
    """The least seconds of each over its turns, and what `auto` chose."""
    first, because = by_auto(training)
    everything = min(by_all(training), by_all(training))
    again, _ = by_auto(training)
    return {"auto_s": min(first, again), "all_s": everything, "because": because}


def trainings() -> Iterator[tuple[str, Training]]:
    for load in EXAMPLES:
        data = load()
        yield data.name, example(data)
    yield "a wide network, 1 M rows", wide()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = {}
    for name, training in trainings():
        one = found[name] = compared(training)
        said = f"{one['auto_s'] / one['all_s']:.3f} ×  auto {one['auto_s']:.2f} s, all {one['all_s']:.2f} s"
        print(f"  {name}  {said}  {one['because']}", file=sys.stderr)
    print(json.dumps(found) if asked.json else json.dumps(found, indent=2))
    kept = all(one["auto_s"] <= MUST * one["all_s"] for one in found.values())
    sys.exit(0 if kept or asked.json else 1)


if __name__ == "__main__":
    main()
