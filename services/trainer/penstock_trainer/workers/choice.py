"""The workers that a pipeline asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.contracts.pipeline import Pipeline

if TYPE_CHECKING:
    from penstock.modelkit.training import Loop
    from penstock_trainer.workers.spread import Tell


@contextmanager
def spread(pipeline: Pipeline, folder: Path, tell: Tell) -> Iterator[Loop | None]:
    """The loop of several workers, begun to load; None where the pipeline's family, or its
    `training.workers`, has one alone. Enter it in the main thread.
    """
    wanted = pipeline.training.workers
    if wanted == 1 or not pipeline.model.workers:
        yield None
        return
    from penstock_trainer.workers.processes import Processes
    from penstock_trainer.workers.spread import Spread

    with closing(Processes()) as workers:
        yield Spread(workers, wanted, len(os.sched_getaffinity(0)), folder, tell)
