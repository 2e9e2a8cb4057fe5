"""`Workers` of processes on this machine, copies of one fork server that has loaded torch.

They find one another by a file in a folder that only their user may enter, and talk over the
loopback interface. Their lives are tied to the fork server's, and its own to the thread that made
it: `kill -9` of the caller ends all.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch

from penstock.modelkit.family import Epoch
from penstock.runtime.jobs.fork_server import ForkServer
from penstock.runtime.jobs.forked_process import ForkedProcess
from penstock.runtime.jobs.policy import Failure, how_it_died
from penstock_trainer.workers.port import Ended, Measured, Order

LOOK_S = 0.2
CAUSE_S = 1.0  # for the end of the worker that left others alone to be told
GONE_S = 5.0  # for killed processes to be gone
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}
MODULE = "penstock_trainer.workers.child"


class Worker(ForkedProcess):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.done = False
        self.failure: Failure | None = None
        self.lost = ""

    @property
    def died(self) -> str:
        """The way in which its process ended before its work did, in words; "" where it did not."""
        if self.done or self.failure or self.lost or not self.gone:
            return ""
        if self.code is None:
            return "the process that workers are copied from died"
        said = f": {self.last_lines[-1]}" if self.last_lines else ""
        return f"worker {self.rank} {how_it_died(self.code)}{said}"


class Processes:
    """Make it in the caller's main thread, and call it from there."""

    def __init__(
        self,
        module: str = MODULE,
        environment: Mapping[str, str] | None = None,
        *,
        loopback: bool = True,
        warm: bool = True,
    ) -> None:
        """Begins to load torch, and does not wait; or, not `warm`, with the first order. `module` runs as
        each worker. `loopback`: none of them is on another machine.
        """
        self.most, self.most_gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
        usual = {"OMP_NUM_THREADS": "1", **(LOOPBACK if loopback else {})}
        self._server = ForkServer(module, {**usual, **(environment or {})})
        if warm:
            self._server.warm(())
        self._workers: list[Worker] = []
        self._pipes = selectors.DefaultSelector()
        self._orders = 0

    def start(self, order: Order) -> int:
        self._orders += 1
        meeting = order.fitting.with_name(f"meeting-{self._orders}")
        meeting.unlink(missing_ok=True)  # of an attempt that was killed here
        self.begin(order, range(order.size), {"file": str(meeting)})
        return order.size

    def begin(self, order: Order, ranks: Iterable[int], meet: Mapping[str, Any]) -> None:
        """Starts some of an order's workers, which `meet` the others there: at a `file`, or the `port` of
        worker 0's `host`, with a `secret`.
        """
        for rank in ranks:
            request = {
                "fitting": str(order.fitting),
                "checkpoint": str(order.checkpoint),
                "meet": dict(meet),
                "rank": rank,
                "size": order.size,
                "steps": order.steps,
            }
            worker = Worker(rank)
            worker.start(self._server, request)
            for pipe in worker.pipes:
                self._pipes.register(pipe.fd, selectors.EVENT_READ, pipe)
            self._workers.append(worker)

    def wait(self, timeout_s: float) -> list[Epoch | Measured | Ended]:
        until = time.monotonic() + timeout_s
        while True:
            found: list[Epoch | Measured | Ended] = [
                told for worker in self._workers for told in _heard(worker)
            ]
            if any(worker.failure or worker.lost or worker.died for worker in self._workers):
                return [*found, self._broken()]
            if self._workers and all(worker.gone for worker in self._workers):
                self._bury()
                return [*found, Ended()]
            left = until - time.monotonic()
            if found or left <= 0 or not self._workers:
                return found
            self._sleep(min(left, LOOK_S))

    def close(self) -> None:
        self.stop()
        self._server.close()
        self._pipes.close()

    def _broken(self) -> Ended:
        """Ends those that are left; the cause is who died before who was left alone."""
        until = time.monotonic() + CAUSE_S
        while not (died := [worker.died for worker in self._workers if worker.died]):
            if time.monotonic() > until or any(worker.failure for worker in self._workers):
                break
            self._sleep(LOOK_S)
            for worker in self._workers:
                [*_heard(worker)]
        left = [worker.lost for worker in self._workers if worker.lost]
        failures = [worker.failure for worker in self._workers if worker.failure]
        self.stop()
        if failures:
            return Ended(failure=failures[0])
        return Ended(lost=died[0]) if died else Ended(lost=left[0], alone=True)

    def stop(self) -> None:
        """Kills those that run; they are gone when it returns."""
        for worker in self._workers:
            worker.kill()
        until = time.monotonic() + GONE_S
        # Also one whose pid is not told yet: it is killed when it is.
        while not all(worker.gone for worker in self._workers) and time.monotonic() < until:
            self._sleep(LOOK_S)
            for worker in self._workers:
                worker.follow()
        if not all(worker.gone for worker in self._workers):
            self._server.close()  # with it go those of whom it has told nothing yet
        self._bury()

    def _sleep(self, seconds: float) -> None:
        """Until one of the pipes has something, `seconds` at most."""
        for key, _ in self._pipes.select(seconds):
            if key.data.ended:  # it would be ready for ever
                self._pipes.unregister(key.fd)

    def _bury(self) -> None:
        for worker in self._workers:
            for pipe in worker.pipes:
                with suppress(KeyError):
                    self._pipes.unregister(pipe.fd)
            worker.close()
        self._workers.clear()


def _heard(worker: Worker) -> Iterator[Epoch | Measured]:
    for said in worker.follow():
        match said:
            case {"epoch": epoch}:
                yield Epoch(**epoch)
            case {"step_s": seconds}:
                yield Measured(seconds)
            case {"done": _}:
                worker.done = True
            case {"error": error}:
                worker.failure = Failure.of(error)
            case {"lost": why}:
                worker.lost = f"worker {worker.rank} was left alone: {why}"
