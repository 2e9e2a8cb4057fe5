"""Processors that a network is trained on: a core, or a GPU. What differs between them stands here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Accelerator

RESIDENT = 0.5  # share of a GPU's free memory that a training set may take; the rest is for the steps


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of processor, as torch names it."""

    kind: Literal["cpu", "cuda"] = "cpu"

    def place(self, rank: int = 0) -> torch.device:
        """The processor of a machine's worker of that rank."""
        return torch.device(self.kind, rank) if self.kind == "cuda" else torch.device(self.kind)

    @property
    def messages(self) -> str:
        """Backend of `torch.distributed` by which several of the kind add up."""
        return "nccl" if self.kind == "cuda" else "gloo"


CPU, GPU = Device(), Device("cuda")


def chosen(accelerator: Accelerator) -> Device:
    """The processor that `training.accelerator` asks for. Raises Invalid where there is none."""
    if accelerator == "cpu":
        return CPU
    if torch.cuda.is_available():
        return GPU
    if accelerator == "auto":
        return CPU
    raise Invalid(
        "the trainer has no GPU",
        where="training.accelerator",
        remedy=f"Write `auto` or `cpu`, or give it one as docs/operations.md says under GPUs; {_seen()}",
    )


def _seen() -> str:
    """What torch would need to find one, in words."""
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
    """State of the processor's own generator, where it has one: dropout on a GPU draws from that."""
    return {"device_random": torch.cuda.get_rng_state(place)} if place.type == "cuda" else {}


def restore_random_state(place: torch.device, state: Mapping[str, Tensor]) -> None:
    """Takes up what `random_state` gave, if that was on such a processor."""
    if place.type == "cuda" and "device_random" in state:
        torch.cuda.set_rng_state(state["device_random"].cpu(), place)
