"""`audit` and `promotion`: what is evidence, and what a new version must keep up with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.contracts.measures import GateMetric, PromotionMetric
from penstock.contracts.pipeline.base import FieldName, Model

_Named = Annotated[str, Field(pattern=r"^.+$", max_length=100)]


class Group(Model):
    min_rows: int = Field(default=30, ge=1)
    """A cell (group x label) with fewer audit rows makes its gates inconclusive."""
    bins: tuple[float, ...] | None = None
    """Numbers: inner edges; [25, 40] makes <25, 25-40, >=40."""
    merge: dict[_Named, tuple[str, ...]] = Field(default_factory=dict, exclude_if=lambda said: not said)
    """Values that are compared as one group, by the group's name: `{other: [a, b]}`. Not with `bins`."""

    def name(self, value: str) -> str:
        """The group of a value, `merge` heeded."""
        return next((name for name, values in self.merge.items() if value in values), value)


class Gate(Model):
    metric: GateMetric
    by: FieldName | None = None
    """Fairness metrics: the group."""
    at_least: float | None = None
    at_most: float | None = None
    judge: Literal["lower_bound", "upper_bound", "estimate"] | None = None
    """Judged value; by default the bound on the unfavourable side."""
    on_fail: Literal["block", "review"] = "block"

    @property
    def bound(self) -> Literal["at_least", "at_most"]:
        return "at_most" if self.at_least is None else "at_least"

    @property
    def limit(self) -> float:
        limit = self.at_most if self.at_least is None else self.at_least
        assert limit is not None, "the file's rules let no gate pass without a limit"
        return limit


class Audit(Model):
    groups: dict[FieldName, Group] = Field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of the intervals that gates are judged by."""
    resamples: int = Field(default=1000, ge=100, le=100_000)
    """Draws of the bootstrap behind intervals that have no formula."""


class Promotion(Model):
    compare: Literal["champion", "none"] = "champion"
    metric: PromotionMetric = "auroc"
    max_drop: float = Field(default=0.005, ge=0)
    """Most that a new version may be worse, in the metric's unit, judged by the upper bound. From
    `defaults: 2` on, where the file does not name it: so much, or the least that these rows can show,
    so that an equal model is not shut out for ever.
    """
    without_gates: Literal["allowed"] | None = Field(default=None, exclude_if=lambda said: said is None)
    """A file without gates has nothing judged, and from `defaults: 2` on its versions serve only with
    this key.
    """
