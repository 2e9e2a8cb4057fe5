"""Time of a training step, measured before a training is given to one worker or to several."""

from __future__ import annotations

import copy
import statistics
import time

import torch

from penstock.modelkit.data_parallel import ProcessGroup, gradients_of
from penstock.modelkit.fitting import Fitting
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.order import Batch

WARM_UP = 3  # steps that fill caches


def step_seconds(
    fitting: Fitting, steps: int, group: ProcessGroup | None = None, *, threads: int = 1
) -> float:
    """Median time of so many steps on rows of the training split, by one worker or by this one of a
    `group`; the training that follows is untouched.
    """
    torch.set_num_threads(threads)
    device, plan = fitting.device, fitting.plan
    place = device.place(0 if group is None else group.rank)
    network = copy.deepcopy(fitting.network).to(place)
    given = network, fitting.objective.at(place), fitting.training.at(place)
    features = given[2].features
    gradients = gradients_of(*given, plan, group, device)
    optimizer = optimizer_of(network.parameters(), plan.optimizer)
    order = torch.Generator().manual_seed(fitting.seed)
    network.train()
    took = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(WARM_UP + steps):
            rows = torch.randint(len(fitting.training.labels), (plan.step_rows,), generator=order)
            began = time.perf_counter()
            gradients.of(Batch(rows, features, rows)).item()  # waits for a GPU
            optimizer.step(0.0)
            took.append(time.perf_counter() - began)
    return statistics.median(took[WARM_UP:])
