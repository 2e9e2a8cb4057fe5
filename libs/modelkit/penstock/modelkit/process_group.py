"""The group of processes of `torch.distributed`, gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from penstock.modelkit.device import CPU, Device
from penstock.modelkit.meeting import reserved

DEADLINE = timedelta(seconds=120)  # for the slowest worker to come to where the others are


class PeerLost(Exception):
    """Another worker of the group has died, or did not come within the deadline."""


class TorchGroup:
    """Process as one of a group's workers."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def add(self, values: Tensor) -> None:
        with _hearing():
            dist.all_reduce(values)

    def lead(self, values: Tensor) -> None:
        with _hearing():
            dist.broadcast(values, 0)


def by_file(path: Path, size: int) -> Store:
    """Has `size` workers find one another by a new file, which they alone may read."""
    return FileStore(str(path), size)


def by_address(host: str, port: int, secret: str, size: int, *, leads: bool) -> Store:
    """Has `size` workers find one another by a port that the leader opens on `host`, where somebody may
    hold it `reserved` until then, under a name that only who knows the `secret` finds. Blocks until it
    is there. Raises PeerLost.
    """
    with _hearing():
        opened = None
        if leads:
            listening = reserved(host, port)
            listening.listen()
            opened = listening.detach()  # it is closed with the store
        store = TCPStore(host, port, size, is_master=leads, timeout=DEADLINE, master_listen_fd=opened)
        return PrefixStore(secret, store)


@contextmanager
def joined(
    store: Store, rank: int, size: int, deadline: timedelta = DEADLINE, device: Device = CPU
) -> Iterator[TorchGroup]:
    """Makes this process worker `rank` of `size`, which find one another by `store`. Blocks until all
    are there. Raises PeerLost. One group a process at a time.
    """
    with _hearing():
        dist.init_process_group(device.messages, store=store, rank=rank, world_size=size, timeout=deadline)
    try:
        yield TorchGroup(rank, size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _hearing() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise PeerLost(str(error)) from error
