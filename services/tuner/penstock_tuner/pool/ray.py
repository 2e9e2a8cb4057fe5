"""`TrialPool` of Ray actors, for several machines: each holds a pool of one process where it runs.

Ray's own part is to place the actors and to carry words. What a trial may do, and how it ends, is
the business of `ProcessPool` on its machine.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from penstock.contracts.errors import Conflict, Kind
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.child import error_said
from penstock.runtime.jobs.policy import Failure
from penstock.runtime.marked import MARK, own_folder
from penstock.runtime.ray_cluster import RayCluster
from penstock_tuner.pool.port import Ended, Reported
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench

LOOK_S = 0.2
PLACED_S = 300.0  # for a machine with a free processor to be found
CLOSE_S = 10.0
OWN = "penstock-trials-"  # of folders of actors, each with its pid
DIED = Failure(Kind.UNAVAILABLE, "the Ray node that it ran on died", "")


class Machine:
    """An actor: one trial at a time, on the machine that Ray chose."""

    def __init__(self, work: str, files: Mapping[str, bytes], bounds: Mapping[str, Any]) -> None:
        """`files`: the workbench's, by name; they are written where they are not to be found."""
        bench = Workbench.model_validate_json(work)
        self._own: Path | None = None
        if not bench.train.exists():
            self._own = own_folder(OWN)
            bench = Workbench(folder=self._own)
            bench.unpack(files)
        # On a cluster other actors, of the same folder, may be on this machine: none sweeps for itself.
        os.environ.setdefault(MARK, f"{bench.folder}/{os.getpid()}")
        self._pool = ProcessPool(bench, at_once=1, **bounds)

    def start(self, number: int, pipeline: str) -> list[Reported | Ended]:
        self._pool.start(number, Pipeline.model_validate_json(pipeline))
        return self.wait()

    def wait(self) -> list[Reported | Ended]:
        return self._pool.wait(LOOK_S)

    def stop(self, number: int) -> None:
        self._pool.stop(number)

    def close(self) -> None:
        self._pool.close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


@dataclass
class _Running:
    """A trial on its way: its actor, and the actor's answer that is awaited."""

    machine: Any
    answer: Any
    heard_at: float = field(default_factory=time.monotonic)


class RayPool:
    """Make it in the caller's main thread, and call it from there; one a process."""

    def __init__(
        self, work: Workbench, *, home: Path, address: str | None = None, at_once: int = 1, **bounds: Any
    ) -> None:
        """`work` may be filled later. `address`: of a Ray cluster; None: one is started on this machine,
        with its files below `home`. `bounds`: those of `ProcessPool`. Blocks for some seconds. Raises
        Unavailable.
        """
        self._work, self._at_once, self._bounds = work, at_once, bounds
        self._cluster = RayCluster(home, address, processors=at_once)
        self._running: dict[int, _Running] = {}
        self._idle: list[Any] = []
        self._dead: list[Reported | Ended] = []  # ends that are not told yet
        self._files: Any = None  # the workbench's, in Ray's object store
        self._connect()

    @property
    def free(self) -> int:
        return self._at_once - len(self._running) - len(self._dead)

    def start(self, number: int, pipeline: Pipeline) -> None:
        if number in self._running or self.free < 1:
            raise Conflict(f"trial {number} cannot start: {sorted(self._running)} run, {self._at_once} may")
        if self._cluster.lost:
            self._dead += self._lost()
        if not self._cluster.connected:
            self._connect()
        text = pipeline.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            with self._cluster.watched():
                machine = self._idle.pop() if self._idle else self._placed()
                self._running[number] = _Running(machine, machine.start.remote(number, text))
        except ConnectionError:
            self._dead.append(Ended(number, failure=DIED))

    def wait(self, timeout_s: float) -> list[Reported | Ended]:
        until = time.monotonic() + timeout_s
        if self._dead:
            dead, self._dead = self._dead, []
            return dead
        while self._running:
            if self._cluster.lost:
                return self._lost()
            answers = [trial.answer for trial in self._running.values()]
            left = max(0.0, until - time.monotonic())
            found: list[Reported | Ended] = []
            with suppress(ConnectionError), self._cluster.watched():
                ray.wait(answers, timeout=min(left, LOOK_S))
                for number in list(self._running):
                    found += self._heard(number)
            if found or not left:
                return found
        return []

    def stop(self, number: int) -> None:
        if trial := self._running.get(number):
            with suppress(ConnectionError), self._cluster.watched():
                trial.machine.stop.remote(number)

    def close(self) -> None:
        if self._cluster.connected:
            machines = [*self._idle, *(trial.machine for trial in self._running.values())]
            with suppress(RayError, GetTimeoutError, ConnectionError), self._cluster.watched():
                ray.get([machine.close.remote() for machine in machines], timeout=CLOSE_S)
            self._end_ray()
        self._running.clear()
        self._dead.clear()

    def _connect(self) -> None:
        self._cluster.connect()
        self._files = None

    def _end_ray(self) -> None:
        self._idle.clear()
        self._cluster.end()

    # -- trials ------------------------------------------------------------------------------------

    def _placed(self) -> Any:
        if self._files is None:
            self._files = ray.put(self._work.packed())
        actor = ray.remote(num_cpus=1, max_restarts=0)(Machine)
        return actor.remote(self._work.model_dump_json(), self._files, self._bounds)

    def _heard(self, number: int) -> Iterator[Reported | Ended]:
        """Tells what the trial's actor has answered, and asks it on."""
        trial = self._running[number]
        ready, _ = ray.wait([trial.answer], timeout=0)
        if not ready:
            if time.monotonic() - trial.heard_at > PLACED_S:
                yield self._given_up(
                    number,
                    Failure(
                        Kind.UNAVAILABLE,
                        f"Ray said nothing for {PLACED_S:g} s",
                        "Give the cluster free processors",
                    ),
                )
            return
        try:
            told = ray.get(trial.answer)
        except RayTaskError as error:  # our own code's, where a machine lacks it or is full
            yield self._given_up(number, Failure.of(error_said(error.cause)))
            return
        except RayError:
            yield self._given_up(number, DIED)
            return
        yield from told
        if any(isinstance(each, Ended) for each in told):
            self._idle.append(self._running.pop(number).machine)
        else:
            trial.answer, trial.heard_at = trial.machine.wait.remote(), time.monotonic()

    def _given_up(self, number: int, failure: Failure) -> Ended:
        with suppress(ConnectionError), self._cluster.watched():
            ray.kill(self._running.pop(number).machine)
        return Ended(number, failure=failure)

    def _lost(self) -> list[Reported | Ended]:
        """Ends of all trials of a Ray that is lost. The next start begins anew."""
        lost: list[Reported | Ended] = [Ended(number, failure=DIED) for number in self._running]
        self._running.clear()
        self._end_ray()
        return lost
