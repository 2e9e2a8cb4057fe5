"""The pool that a study's trials run in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.runtime.settings import LOCAL_RAY
from penstock_tuner.pool.port import TrialPool
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench


def open_pool(
    work: Workbench,
    home: Path,
    cluster: str | None,
    *,
    at_once: int,
    memory: int | None,
    families: Sequence[str],
) -> TrialPool:
    """Opens a pool of processes of this machine, or one on Ray. `cluster`: its address; LOCAL_RAY: one that
    is started here, with its files below `home`. `families`: types of models in the space. Raises
    Unavailable.
    """
    if cluster is None:
        return ProcessPool(work, at_once=at_once, memory=memory, families=families)
    from penstock_tuner.pool.ray import RayPool

    address = None if cluster == LOCAL_RAY else cluster
    return RayPool(work, home=home, address=address, at_once=at_once, memory=memory, families=families)
