"""Admitted model version: its promotion, its package, and the layout of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from penstock.contracts.events import ModelVersionPromoted
from penstock.packages.format import Package
from penstock.serving.confidence import Edges


@dataclass(frozen=True)
class Layout:
    """Features of one version, in the order of its tensors' columns."""

    digest: str
    generation: int
    numbers: tuple[str, ...]
    strings: tuple[str, ...]
    booleans: frozenset[str] = frozenset()  # members of `strings` that hold "true" or "false"


# Layout by pipeline and generation; without a generation, that of the version that is served. None
# for a pipeline that never served.
Layouts = Callable[[str, int | None], Layout | None]


@dataclass(frozen=True)
class Model:
    """Version whose signatures, evidence and bytes this process has verified."""

    promotion: ModelVersionPromoted
    package: Package

    @property
    def pipeline(self) -> str:
        return self.promotion.version.pipeline

    @property
    def generation(self) -> int:
        return self.promotion.generation

    @property
    def digest(self) -> str:
        return self.promotion.version.digest

    @cached_property
    def references(self) -> dict[str, str]:
        """`source.field` by feature, in the order of the tensors: numbers, then strings."""
        features = self.package.pipeline.resolved_features()
        inputs = self.package.signature.inputs
        return {name: features[name].source_field for name in (*inputs.numbers, *inputs.strings)}

    @cached_property
    def asked(self) -> list[str]:
        """`source.field` of each feature, in the order of the pipeline's file: as the feature store keeps
        them together.
        """
        features = self.package.pipeline.resolved_features()
        return [feature.source_field for name, feature in features.items() if name in self.references]

    @cached_property
    def types(self) -> dict[str, str]:
        """Declared type of the field behind each feature."""
        return {
            name: self.package.pipeline.field(reference).type for name, reference in self.references.items()
        }

    @cached_property
    def marks(self) -> dict[str, tuple[str, ...]]:
        """Texts that its source reads as missing, of each feature."""
        sources = self.package.pipeline.sources
        return {name: sources[where.partition(".")[0]].missing for name, where in self.references.items()}

    @cached_property
    def layout(self) -> Layout:
        inputs = self.package.signature.inputs
        booleans = frozenset(name for name in inputs.strings if self.types[name] == "boolean")
        return Layout(self.digest, self.generation, inputs.numbers, inputs.strings, booleans)

    @cached_property
    def edges(self) -> Edges | None:
        """Places at which its decision changes; None for a regression, which decides nothing."""
        classes, decided = self.package.signature.classes, self.package.pipeline.decision
        if not classes:
            return None
        threshold = self.package.metrics.get("threshold", 0.5) if len(classes) == 2 else None
        return Edges(threshold, decided.abstain)
