"""The processor and the workers that a pipeline asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.device import chosen
from penstock.modelkit.training import Loop, train
from penstock.runtime.settings import LOCAL_RAY
from penstock_trainer.settings import Settings

if TYPE_CHECKING:
    from penstock_trainer.workers.port import Workers
    from penstock_trainer.workers.spread import Tell


@contextmanager
def spread(pipeline: Pipeline, folder: Path, settings: Settings, tell: Tell) -> Iterator[Loop | None]:
    """The loop that a family of networks is trained by; None for others. That of several workers has
    begun to load, unless they must first be shown to pay: enter it in the main thread. Raises Invalid
    where there is no such processor.
    """
    if not pipeline.model.workers:
        yield None
        return
    wanted = pipeline.training.workers
    elsewhere = settings.cluster not in (None, LOCAL_RAY) and wanted not in (1, "auto")
    device = chosen(pipeline.training, elsewhere=elsewhere)
    if wanted == 1:
        yield partial(train, device=device)
        return
    from penstock_trainer.workers.spread import Spread

    with closing(_opened(settings, warm=wanted != "auto")) as workers:
        yield Spread(workers, wanted, folder, tell, device)


def _opened(settings: Settings, *, warm: bool) -> Workers:
    if settings.cluster is None:
        from penstock_trainer.workers.processes import Processes

        return Processes(warm=warm)
    from penstock_trainer.workers.ray import RayWorkers

    address = None if settings.cluster == LOCAL_RAY else settings.cluster
    return RayWorkers(settings.data_dir, address)
