"""`Workers` on Ray, for several machines: an actor a worker, which holds its process where Ray placed it.

Ray's own part is to place the actors together and to carry words. How a worker trains and ends is
the business of `Processes` on its machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from penstock.contracts.errors import Unavailable
from penstock.modelkit.family import Epoch, write_whole
from penstock.modelkit.meeting import reserved
from penstock.runtime.child import error_said
from penstock.runtime.jobs.policy import Failure
from penstock.runtime.marked import own_folder
from penstock.runtime.ray_cluster import RayCluster
from penstock_trainer.workers.port import Ended, Measured, Order
from penstock_trainer.workers.processes import Processes

LOOK_S = 0.2
ANSWER_S = 60.0  # for an actor to start, or to say a word
CLOSE_S = 10.0
OWN = "penstock-workers-"  # of folders of actors, each with its pid

Told = Epoch | Measured | Ended


@dataclass(frozen=True)
class Carried:
    """An epoch, and the checkpoint that was written where the caller cannot read it."""

    epoch: Epoch
    checkpoint: bytes


class Machine:
    """An actor: one worker."""

    def __init__(self, opened: Callable[[], Processes]) -> None:
        self._processes = opened()
        self._own: Path | None = None
        self._port: socket.socket | None = None  # held until another is asked for
        self._order: Order | None = None

    def address(self) -> dict[str, Any]:
        """A port of this machine, held for the worker that is to listen at it."""
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._leave_port()
        self._port = reserved(host)
        return {"host": host, "port": self._port.getsockname()[1]}

    def begin(self, order: Order, rank: int, meet: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """`files`: content of the order's by name; they are written where they are not to be found."""
        if not order.fitting.exists():
            self._own = self._own or own_folder(OWN)
            # One that an order before wrote may be newer than the caller's, and no other worker's.
            (self._own / order.checkpoint.name).unlink(missing_ok=True)
            for name, content in files.items():
                (self._own / name).write_bytes(content)
            fitting, checkpoint = self._own / order.fitting.name, self._own / order.checkpoint.name
            order = replace(order, fitting=fitting, checkpoint=checkpoint)
        self._order = order
        self._processes.begin(order, [rank], meet)

    def wait(self) -> list[Told | Carried]:
        return [self._carried(told) for told in self._processes.wait(LOOK_S)]

    def stop(self) -> None:
        self._processes.stop()

    def close(self) -> None:
        self._processes.close()
        self._leave_port()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def _leave_port(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None

    def _carried(self, told: Told) -> Told | Carried:
        if self._own is None or self._order is None or not isinstance(told, Epoch):
            return told
        return Carried(told, self._order.checkpoint.read_bytes())


class RayWorkers:
    """Make it in the caller's main thread, and call it from there; one a process."""

    def __init__(
        self,
        home: Path,
        address: str | None = None,
        *,
        placed_s: float = 60.0,
        opened: Callable[[], Processes] | None = None,
    ) -> None:
        """`address`: of a Ray cluster; None: one is started on this machine with the first order, with its
        files below `home`. `placed_s`: time for which room is waited for. `opened`: makes the processes
        of an actor.
        """
        self._cluster = RayCluster(home, address, processors=max(2, len(os.sched_getaffinity(0))))
        self._local, self._placed_s = address is None, placed_s
        self._opened = opened or partial(Processes, loopback=self._local)
        self._room: Any = None  # the placement group of all actors
        self._machines: list[Any] = []
        self._order: Order | None = None
        self._answers: dict[Any, int] = {}  # by what is awaited: the worker
        self._heard_at: dict[int, float] = {}
        self._ends: dict[int, Ended] = {}
        self._died = False  # whether the order before ended so

    @property
    def most(self) -> int:
        with self._reached():
            self._connect()
            return _free("CPU")[0] + len(self._machines)

    @property
    def most_gpus(self) -> int:
        with self._reached():
            self._connect()
            return min(self.most, _free("GPU")[0] + len(self._machines))

    def start(self, order: Order) -> int:
        with self._reached():
            return self._started(order)

    def _started(self, order: Order) -> int:
        if self._cluster.lost:
            self._forget()
        self._connect()
        if len(self._machines) == order.size:
            with suppress(Unavailable):
                self._begin(order)
                return order.size
        self._release()
        size = self._reserve(order)
        self._machines = [self._machine(rank, order) for rank in range(size)]
        try:
            self._begin(replace(order, size=size))
        except Unavailable:
            self._release()
            raise
        return size

    def wait(self, timeout_s: float) -> list[Told]:
        until, found = time.monotonic() + timeout_s, []
        while self._order is not None:
            if self._cluster.lost:
                self._ends[0] = Ended(lost="the Ray node of all workers, or the head of their cluster, died")
                self._forget()
            else:
                found = self._hear()
            if end := self._end():
                self._died = bool(end.lost)
                self._stop()
                return [*found, end]
            if found or time.monotonic() >= until:
                break
        return found

    def close(self) -> None:
        if self._cluster.connected:
            with suppress(ConnectionError), self._cluster.watched():  # a training that is done stays so
                self._release()
            self._cluster.end()
        self._died = False

    # -- room --------------------------------------------------------------------------------------

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raises Unavailable where the cluster is lost meanwhile."""
        try:
            with self._cluster.watched():
                yield
        except ConnectionError as error:
            raise Unavailable(f"Ray is not there any more: {error}", where="RAY_ADDRESS") from error

    def _connect(self) -> None:
        if not self._cluster.connected:
            self._cluster.connect()

    def _forget(self) -> None:
        """Ends this process's part in a Ray that is lost."""
        self._machines = []  # before: a call to one of them would start another Ray
        self._cluster.end()

    def _reserve(self, order: Order) -> int:
        """Reserves for each worker what it needs; for fewer after a death, where there is no more room.
        Raises Unavailable.
        """
        size, needs = order.size, _needs(order)
        if self._reserved(size, needs):
            return size
        room = {kind: _free(kind) for kind in needs}
        free = min(free for free, _ in room.values())
        if self._died and 0 < free < size and self._reserved(free, needs):
            return free
        told = " and ".join(
            f"{free} of its {every} {'processors' if kind == 'CPU' else 'GPUs'}"
            for kind, (free, every) in room.items()
        )
        raise Unavailable(
            f"Ray had no room for {size} workers within {self._placed_s:g} s: {told} are free",
            where="training.workers",
            remedy="Give the cluster nodes, or ask for fewer workers",
        )

    def _reserved(self, size: int, needs: Mapping[str, float]) -> bool:
        room = placement_group([dict(needs)] * size, strategy="PACK")
        if room.wait(self._placed_s):
            self._room = room
            return True
        remove_placement_group(room)
        return False

    def _release(self) -> None:
        """Ends the actors with all that they started, and gives their room back. Raises ConnectionError
        where the cluster is lost, and they with it: what is asked of Ray then starts another.
        """
        machines, room = self._machines, self._room
        self._machines, self._room = [], None
        if machines:
            with suppress(RayError):
                ray.get([machine.close.remote() for machine in machines], timeout=CLOSE_S)
            for machine in machines:
                ray.kill(machine)
            remove_placement_group(room)

    # -- workers -----------------------------------------------------------------------------------

    def _machine(self, rank: int, order: Order) -> Any:
        place = PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=rank)
        gpus = _needs(order).get("GPU", 0)  # Ray shows an actor those that it has, and no others
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, scheduling_strategy=place)(Machine)
        return actor.remote(self._opened)

    def _begin(self, order: Order) -> None:
        """Has the actors begin. Raises Unavailable where one is dead, or cannot."""
        files = {} if self._local else {path.name: path.read_bytes() for path in _files(order)}
        content = ray.put(files)
        try:
            meet = self._meeting(order)
            begun = [
                machine.begin.remote(order, rank, meet, content)
                for rank, machine in enumerate(self._machines)
            ]
            ray.get(begun, timeout=ANSWER_S)
        except RayError as error:
            last = str(error).strip().rpartition("\n")[2]
            raise Unavailable(
                f"Ray did not start {order.size} workers: {last}", where="RAY_ADDRESS"
            ) from error
        self._order, self._ends = order, {}
        for rank in range(order.size):
            self._ask(rank)

    def _meeting(self, order: Order) -> dict[str, Any]:
        if self._local:
            return {"file": str(order.fitting.with_name(f"meeting-{secrets.token_hex(4)}"))}
        found: dict[str, Any] = ray.get(self._machines[0].address.remote(), timeout=ANSWER_S)
        return found | {"secret": secrets.token_hex(16)}

    def _stop(self) -> None:
        """Ends what is left of an order; the actors stay for the next."""
        self._order = None
        self._answers.clear()
        self._heard_at.clear()
        if self._machines:
            with suppress(RayError, ConnectionError), self._cluster.watched():
                ray.get([machine.stop.remote() for machine in self._machines], timeout=CLOSE_S)

    # -- words -------------------------------------------------------------------------------------

    def _ask(self, rank: int) -> None:
        self._answers[self._machines[rank].wait.remote()] = rank
        self._heard_at[rank] = time.monotonic()

    def _hear(self) -> list[Told]:
        """Reads what actors have answered, and asks them on; ends are kept."""
        found: list[Told] = []
        with suppress(ConnectionError), self._cluster.watched():
            self._hear_into(found)
        return found

    def _hear_into(self, found: list[Told]) -> None:
        ready, _ = ray.wait([*self._answers], timeout=LOOK_S)
        for answer in ready:
            rank = self._answers[answer]
            try:
                told = [self._kept(each) for each in ray.get(answer)]
            except RayTaskError as error:  # our own code's, where a machine lacks it or is full
                told = [Ended(failure=Failure.of(error_said(error.cause)))]
            except RayError:
                told = [Ended(lost=f"the Ray node of worker {rank} died")]
            del self._answers[answer], self._heard_at[rank]
            ends = [each for each in told if isinstance(each, Ended)]
            found += [each for each in told if not isinstance(each, Ended)]
            if ends:
                self._ends[rank] = ends[0]
            else:
                self._ask(rank)

    def _end(self) -> Ended | None:
        """The end of the order; None while it lasts. Whoever was left alone is no cause, unless nobody
        else says one in time.
        """
        assert self._order is not None
        ends = [*self._ends.values()]
        now = time.monotonic()
        for rank, at in self._heard_at.items():
            if now - at > ANSWER_S:
                return Ended(lost=f"worker {rank} died: Ray said nothing of it for {ANSWER_S:g} s")
        causes = [end for end in ends if end.failure] + [end for end in ends if end.lost and not end.alone]
        if causes:
            return causes[0]
        if len(ends) == self._order.size:
            return next((end for end in ends if end.lost), Ended())
        return None

    def _kept(self, told: Told | Carried) -> Told:
        """Writes a checkpoint that was carried here."""
        if not isinstance(told, Carried):
            return told
        assert self._order is not None
        write_whole(self._order.checkpoint, told.checkpoint)
        return told.epoch


def _needs(order: Order) -> dict[str, float]:
    """Resources of a worker, by Ray's names."""
    return {"CPU": 1, "GPU": 1} if order.gpus else {"CPU": 1}


def _free(kind: str) -> tuple[int, int]:
    """Amounts of the cluster's `CPU` or `GPU` that are free, and all."""
    free, every = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(free.get(kind, 0)), int(every.get(kind, 0))


def _files(order: Order) -> list[Path]:
    return [path for path in (order.fitting, order.checkpoint) if path.exists()]
