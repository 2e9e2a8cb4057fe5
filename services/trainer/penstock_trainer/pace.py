"""Pace of a run: who trains, how fast, and what holds it up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from penstock.packages.parts import TrainingPace

if TYPE_CHECKING:  # the service needs no more than its name, and it brings ONNX Runtime
    from penstock.modelkit.family import Epoch

NOTABLE = 0.2  # share of the time from which a wait is worth a word


class Pace(BaseModel, frozen=True):
    """`because`: why so many workers, where that was measured. Of an epoch, of worker 0: rows a second,
    mean seconds of a step, and the shares of its time that went into cutting batches and into waiting
    for others; on a GPU the share in which a step was under way there, and the most memory that
    tensors took.
    """

    workers: int = 1
    because: str = ""
    rows_per_s: float = 0.0
    step_s: float = 0.0
    data_share: float = 0.0
    communication_share: float = 0.0
    gpu_share: float = 0.0
    gpu_bytes: int = 0

    def at(self, *epochs: Mapping[str, Any]) -> Pace:
        """The pace over these epochs; this one where they were not timed."""
        timed = [epoch for epoch in epochs if epoch.get("took_s")]
        if not timed:
            return self

        def of_all(name: str) -> float:
            return sum(float(epoch[name]) for epoch in timed)

        took = of_all("took_s")
        told = {
            "workers": timed[-1].get("workers", self.workers),
            "rows_per_s": of_all("rows") / took,
            "step_s": sum(epoch.get("step_s", 0.0) for epoch in timed) / len(timed),
            "data_share": of_all("data_s") / took,
            "communication_share": of_all("communication_s") / took,
            "gpu_share": sum(epoch.get("gpu_s", 0.0) for epoch in timed) / took,
            "gpu_bytes": max(epoch.get("gpu_bytes", 0) for epoch in timed),
        }
        return self.model_copy(update=told)

    @property
    def figures(self) -> dict[str, float]:
        """Figures by their names; none where nothing was timed, and of a GPU none without one."""
        if not self.rows_per_s:
            return {}
        gpu = set() if self.gpu_bytes else {"gpu_share", "gpu_bytes"}
        told = self.model_dump(exclude={"workers", "because", *gpu})
        return told | {"compute_share": 1 - self.data_share - self.communication_share}

    @property
    def part(self) -> TrainingPace | None:
        """The pace as a package tells it."""
        if not self.rows_per_s:
            return None
        return TrainingPace(workers=self.workers, bottleneck=self.bottleneck, **self.figures)

    @property
    def bottleneck(self) -> str:
        """The part that takes most of the time, in words; "" where none was timed."""
        if not self.rows_per_s:
            return ""
        if self.communication_share >= max(NOTABLE, self.data_share):
            return f"waits for the other workers {self.communication_share:.0%} of the time"
        if self.data_share >= NOTABLE:
            return f"waits for data {self.data_share:.0%} of the time"
        return f"computes {self.figures['compute_share']:.0%} of the time"


def pace_of(history: Iterable[Epoch]) -> Pace:
    """The pace of a whole training."""
    return Pace().at(*map(asdict, history))
