"""Processors that a network is trained on: a core, or a GPU. What differs between them stands here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Compile, Precision, Training

RESIDENT = 0.5  # share of a GPU's free memory that a training set may take; the rest is for the steps


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of processor, as torch names it, and how it computes."""

    kind: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
    compile: Compile = "none"
    deterministic: bool = False

    @contextmanager
    def ready(self, rank: int = 0) -> Iterator[torch.device]:
        """Makes the processor of a machine's worker of that rank this process's own."""
        place = self.place(rank)
        if self.kind == "cpu":
            yield place
            return
        torch.cuda.set_device(place)
        torch.cuda.manual_seed(torch.initial_seed())  # a worker's process knows the CPU's state alone
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
        torch.use_deterministic_algorithms(self.deterministic)
        try:
            yield place
        finally:
            torch.use_deterministic_algorithms(False)

    def forward(self, network: nn.Module) -> Callable[..., Tensor]:
        """The network's pass in a training step: float32 out, whatever its products are in."""
        if self.precision == "fp32" and self.compile == "none":
            return network
        passed = network if self.compile == "none" else torch.compile(network, backend=self.compile)

        def mixed(*batch: Tensor) -> Tensor:
            with torch.autocast(self.kind, torch.bfloat16, enabled=self.precision == "bf16"):
                found: Tensor = passed(*batch)
            return found.float()

        return mixed

    def place(self, rank: int = 0) -> torch.device:
        """The processor of a worker of that rank, among those that its process sees."""
        if self.kind == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", rank % max(1, torch.cuda.device_count()))

    @property
    def messages(self) -> str:
        """Backend of `torch.distributed` by which several of the kind add up."""
        return "nccl" if self.kind == "cuda" else "gloo"


CPU = Device()


def chosen(training: Training, *, elsewhere: bool = False) -> Device:
    """The processor that `training.accelerator` asks for, a GPU a worker. `elsewhere`: workers are on
    machines that are not known yet. Raises Invalid where there is none.
    """
    accelerator = training.accelerator
    workers = 1 if training.workers == "auto" else training.workers
    if elsewhere:
        found = workers if accelerator == "gpu" else 0
    else:
        found = torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 0
    how = Device(precision=training.precision, compile=training.compile, deterministic=training.deterministic)
    if found >= workers:
        return replace(how, kind="cuda")
    if accelerator != "gpu":
        return replace(how, compile="none") if how.compile == "cudagraphs" else how
    if found:
        raise Invalid(
            f"{workers} workers were asked for, a GPU each, and the trainer has {found}",
            where="training.workers",
            remedy=f"Ask for {found}, write `accelerator: cpu`, or train on a Ray cluster that has more",
        )
    raise Invalid(
        "the trainer has no GPU",
        where="training.accelerator",
        remedy=f"Write `auto` or `cpu`, or give it one as docs/operations.md says under GPUs; {_seen()}",
    )


def _seen() -> str:
    """Words on what torch lacks to find a GPU."""
    if torch.version.cuda is None:
        return "its torch is built without CUDA"
    return f"its torch is built for CUDA {torch.version.cuda}, and no device with a driver for that is there"


def has_room(place: torch.device, size: int) -> bool:
    """Tells whether so many bytes may stay on the processor while it trains."""
    if place.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(place)
    return size <= RESIDENT * free


def handed(values: Tensor, place: torch.device | None) -> Tensor:
    """The values at that place; None: where they are. To a GPU they go by way of pinned memory, so that
    this process need not wait for the copy.
    """
    if place is None or values.device == place:
        return values
    return (values.pin_memory() if place.type == "cuda" else values).to(place, non_blocking=True)


def random_state(place: torch.device) -> dict[str, Tensor]:
    """States of the generators that dropout there draws from: the CPU's, and a GPU's own."""
    own = {"device_random": torch.cuda.get_rng_state(place)} if place.type == "cuda" else {}
    return {"random": torch.get_rng_state(), **own}


def restore_random_state(place: torch.device, state: Mapping[str, Tensor]) -> None:
    """Takes up what `random_state` gave, that of a GPU where both are one."""
    torch.set_rng_state(state["random"].cpu())
    if place.type == "cuda" and "device_random" in state:
        torch.cuda.set_rng_state(state["device_random"].cpu(), place)
