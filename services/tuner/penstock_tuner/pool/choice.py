"""The pool that a study's trials run in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from penstock_tuner.pool.port import TrialPool
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench

HERE = "local"


def open_pool(
    work: Workbench,
    home: Path,
    ray: str | None,
    *,
    at_once: int,
    memory: int | None,
    families: Sequence[str],
) -> TrialPool:
    """Opens a pool of processes of this machine, or one on Ray. `ray`: a cluster's address, by default
    `RAY_ADDRESS`; `local`: one that is started here, with its files below `home`. `families`: types
    of models in the space. Raises Unavailable.
    """
    address = ray or os.environ.get("RAY_ADDRESS")
    if address is None:
        return ProcessPool(work, at_once=at_once, memory=memory, families=families)
    from penstock_tuner.pool.ray import RayPool

    where = None if address == HERE else address
    return RayPool(work, home=home, address=where, at_once=at_once, memory=memory, families=families)
