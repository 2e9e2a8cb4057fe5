"""Admitted model version: its promotion, its package, and what its tensors mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from penstock.contracts.events import ModelVersionPromoted
from penstock.packages.format import Package
from penstock_inference.serving.layout import Layout


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
    def inputs(self) -> tuple[str, ...]:
        """Features in the order of the tensors: numbers, then strings."""
        return (*self.package.signature.inputs.numbers, *self.package.signature.inputs.strings)

    @cached_property
    def references(self) -> dict[str, str]:
        """`source.field` by feature."""
        features = self.package.pipeline.resolved_features()
        return {name: features[name].source_field for name in self.inputs}

    @cached_property
    def types(self) -> dict[str, str]:
        """Declared type of the field behind each feature."""
        return {
            name: self.package.pipeline.field(reference).type for name, reference in self.references.items()
        }

    @cached_property
    def layout(self) -> Layout:
        inputs = self.package.signature.inputs
        booleans = frozenset(name for name in inputs.strings if self.types[name] == "boolean")
        return Layout(self.digest, self.generation, inputs.numbers, inputs.strings, booleans)
