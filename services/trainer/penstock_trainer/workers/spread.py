"""A training loop whose steps are computed by workers: chooses how many, starts them, begins again from
the checkpoint when one dies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import structlog
import torch

from penstock.contracts.errors import Kind, error_of
from penstock.contracts.pipeline import Trainer
from penstock.modelkit.device import CPU, Device
from penstock.modelkit.family import Epoch, write_whole
from penstock.modelkit.fitting import Fitting
from penstock.modelkit.network import Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.probe import step_seconds
from penstock_trainer.workers.pays import (
    THREADS_FROM_S,
    Alone,
    Choice,
    Probe,
    done_before,
    measured_of,
    steps_of,
    weighed,
)
from penstock_trainer.workers.port import Ended, Measured, Order, Workers

log = structlog.get_logger(__name__)

DEATHS = 3  # without an epoch between them, after which a training fails
LOOK_S = 1.0

Tell = Callable[[Mapping[str, Any]], None]


class Spread:
    """A `penstock.modelkit.training.Loop`. Its result is that of `train`, to rounding."""

    def __init__(
        self,
        workers: Workers,
        wanted: int | Literal["auto"],
        folder: Path,
        tell: Tell,
        device: Device = CPU,
    ) -> None:
        """`folder`: for files of its own, which hold people's data. `tell`: where the choice goes, and
        what becomes of it. `device`: the kind that each worker has one of.
        """
        self._workers, self._wanted, self._device = workers, wanted, device
        self._gpus = device.kind == "cuda"
        self._folder, self._tell = folder, tell

    def __call__(
        self,
        network: Trainable,
        objective: Objective,
        training: Split,
        validation: Split,
        plan: Trainer,
        *,
        seed: int,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> tuple[Epoch, ...]:
        """Raises what `train` does, Unavailable where there is no room for workers."""
        random = torch.get_rng_state()
        fitting = Fitting(network, objective, training, validation, plan, seed, random, self._device)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file, kept = self._folder / "fitting.pt", checkpoint or self._folder / "checkpoint.pt"
        file.unlink(missing_ok=True)  # of an attempt before, perhaps by another release
        choice = self._choice(fitting, file)
        self._tell({"workers": choice.workers, "because": choice.because})
        if choice.workers == 1:
            file.unlink(missing_ok=True)  # of the measurement
            return fitting.train(checkpoint=checkpoint, on_epoch=on_epoch, threads=choice.threads)
        if not file.exists():
            fitting.write(file)
        self._train(Order(file, kept, choice.workers, gpus=self._gpus), on_epoch)
        file.unlink()
        # All of it is in the checkpoint: this reads it, on a CPU, as GPUs may be others' machines'.
        return replace(fitting, device=CPU).train(checkpoint=kept)

    # -- how many ----------------------------------------------------------------------------------

    def _choice(self, fitting: Fitting, file: Path) -> Choice:
        """The number that an attempt before took, so that the same bits follow; else the best."""
        before = self._folder / "choice.json"
        if before.exists():
            return Choice(**json.loads(before.read_text()))
        found = Choice(self._wanted, "") if self._wanted != "auto" else self._measured(fitting, file)
        write_whole(before, json.dumps(found._asdict()).encode())
        log.info("workers_chosen", **found._asdict())
        return found

    def _measured(self, fitting: Fitting, file: Path) -> Choice:
        left = steps_of(fitting)
        alone = self._alone(fitting, left)
        if done := done_before(alone, left):
            return done
        probe = Probe(self._workers.most_gpus if self._gpus else self._workers.most, alone, left)
        if probe.workers < 2:
            return alone.chosen(f"no second {'GPU' if self._gpus else 'processor'} is free")
        fitting.write(file)
        order = Order(file, file, probe.workers, steps=probe.steps, gpus=self._gpus)
        measured = [told.step_s for told in self._until_ended(order) if isinstance(told, Measured)]
        if not measured:
            return alone.chosen("several could not be measured")
        return weighed(probe, measured[0])

    def _alone(self, fitting: Fitting, left: int) -> Alone:
        """A single worker as it is fastest: on one thread, or on all of the cores that this process has."""
        steps = measured_of(left)
        alone = Alone(step_seconds(fitting, steps))
        cores = len(os.sched_getaffinity(0))
        if cores == 1 or self._gpus or left * alone.step_s < THREADS_FROM_S:
            return alone
        return alone.or_on(cores, step_seconds(fitting, steps, threads=cores))

    # -- training ----------------------------------------------------------------------------------

    def _train(self, order: Order, on_epoch: Callable[[Epoch], None]) -> None:
        last, deaths = 0, 0
        while True:
            for told in self._until_ended(order):
                if isinstance(told, Epoch) and told.number > last:
                    last, deaths = told.number, 0
                    on_epoch(told)
                elif isinstance(told, Ended):
                    end = told
            if end.failure is not None:
                raise error_of(end.failure.kind, end.failure.message, remedy=end.failure.remedy)
            if not end.lost:
                return
            deaths += 1
            log.warning("worker_lost", why=end.lost, epochs=last, times=deaths)
            if deaths == DEATHS:
                raise error_of(
                    Kind.INTERNAL,
                    f"workers died {DEATHS} times, the last time {end.lost}",
                    remedy="SIGKILL often means that memory ran out: train with fewer workers",
                )

    def _until_ended(self, order: Order) -> Iterator[Epoch | Measured | Ended]:
        started = self._workers.start(order)
        if started < order.size:
            why = f"{order.size} were asked for, and there was room for {started}"
            log.warning("fewer_workers", workers=started, wanted=order.size)
            self._tell({"workers": started, "because": why})
        while True:
            for told in self._workers.wait(LOOK_S):
                yield told
                if isinstance(told, Ended):
                    return
