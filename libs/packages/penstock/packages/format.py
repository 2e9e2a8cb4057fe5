"""Model package: a flat directory of nine files, and some that not every model has (explanation, origin,
study, baselines), named by the digest of its manifest.

A reader who trusts the digest and opens the package with `open_package` may trust its content. The
package does not say who trusts it: the OpenSSF signature `model.sig` lies beside the directory, and
evidence travels in events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from penstock.contracts.errors import Invalid, Tampered
from penstock.contracts.events import StudyReference, TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.packages.manifest import (
    METRICS,
    MODEL,
    MODEL_CARD,
    Manifest,
    canonical,
    check_files,
    read_manifest,
    write_manifest,
)
from penstock.packages.parts import (
    CURVES,
    EXPLANATION,
    ORIGIN,
    PIPELINE,
    PROFILE,
    SIGNATURE,
    STUDY,
    TRAINING_SET,
    Curves,
    Explanation,
    ModelSignature,
    Origin,
    Parts,
    Profile,
)

BASELINE = "baseline_"
_PartT = TypeVar("_PartT")


@dataclass(frozen=True)
class Package:
    """Package whose files were all as its manifest lists them when it was opened. Typed parts raise
    Invalid when their content is not theirs.
    """

    directory: Path
    digest: str  # Digest of the manifest: `sha256:` and 64 hexadecimal digits.
    manifest: Manifest

    @property
    def model(self) -> Path:
        """Path of the ONNX graph."""
        return self.directory / MODEL

    @cached_property
    def pipeline(self) -> Pipeline:
        """Effective pipeline: the file as applied, with the run's overrides."""
        return self._part(PIPELINE, Pipeline)

    @cached_property
    def signature(self) -> ModelSignature:
        return self._part(SIGNATURE, ModelSignature)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics of the validation split."""
        return self._part(METRICS, dict[str, FiniteFloat])

    @cached_property
    def training_set(self) -> TrainingSet:
        return self._part(TRAINING_SET, TrainingSet)

    @cached_property
    def profile(self) -> Profile:
        return self._part(PROFILE, Profile)

    @cached_property
    def curves(self) -> Curves:
        return self._part(CURVES, Curves)

    @cached_property
    def explanation(self) -> Explanation | None:
        """None where the family shows nothing of its models."""
        listed = EXPLANATION in self.manifest.files
        return self._part(EXPLANATION, Explanation) if listed else None

    @cached_property
    def origin(self) -> Origin | None:
        """None where the trainer made the model."""
        return self._part(ORIGIN, Origin) if ORIGIN in self.manifest.files else None

    @cached_property
    def study(self) -> StudyReference | None:
        """None where no tuning study chose the model."""
        return self._part(STUDY, StudyReference) if STUDY in self.manifest.files else None

    @property
    def baselines(self) -> dict[str, Path]:
        """ONNX graphs of simpler models on the same rows, by family."""
        listed = (
            name for name in self.manifest.files if name.startswith(BASELINE) and name.endswith(".onnx")
        )
        return {
            name.removeprefix(BASELINE).removesuffix(".onnx"): self.directory / name
            for name in sorted(listed)
        }

    @property
    def model_card(self) -> str:
        return self.read(MODEL_CARD).decode()

    def read(self, name: str) -> bytes:
        """Reads a listed file and hashes it anew. Raises Invalid for another name, Tampered."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise Invalid("the package lists no such file", where=name)
        content = (self.directory / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise Tampered("the file is not the one that the manifest lists", where=name)
        return content

    def check(self) -> None:
        """Reads every typed part and compares them with one another. Raises Invalid with the first
        thing that does not fit.
        """
        Parts(
            pipeline=self.pipeline,
            signature=self.signature,
            metrics=self.metrics,
            training_set=self.training_set,
            profile=self.profile,
            curves=self.curves,
            model_card=self.model_card,
            explanation=self.explanation,
            origin=self.origin,
            study=self.study,
        ).check()

    def _part(self, name: str, kind: type[_PartT]) -> _PartT:
        """Keys of a newer release are passed over: the digest fixes what they say."""
        try:
            return TypeAdapter(kind).validate_json(self.read(name), extra="ignore")
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"{key + ': ' if key else ''}{first['msg']}", where=name) from error


def open_package(directory: Path, digest: str | None = None) -> Package:
    """Opens a package and verifies all of it: the manifest, each file's size and hash, that nothing
    else lies there.

    With `digest` (`sha256:…`) it must be that package. Raises Tampered that names the file.
    """
    manifest, found = read_manifest(directory, digest)
    check_files(directory, manifest)
    return Package(directory, found, manifest)


def write_package(
    directory: Path, model: bytes, parts: Parts, baselines: Mapping[str, bytes] = MappingProxyType({})
) -> str:
    """Writes a whole package with this ONNX graph into `directory`, which is made or must be empty.
    Returns its digest. `baselines`: graphs of simpler models on the same rows, by family.

    The package is opened and checked again, so that a trainer never hands out one that nobody can
    load. Raises Invalid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise Invalid("the directory is not empty", where=str(directory))
    files = {
        MODEL: model,
        METRICS: canonical(dict(parts.metrics)),
        MODEL_CARD: parts.model_card.encode(),
        **{f"{BASELINE}{name}.onnx": graph for name, graph in baselines.items()},
    }
    for name, part in (
        (PIPELINE, parts.pipeline),
        (SIGNATURE, parts.signature),
        (TRAINING_SET, parts.training_set),
        (PROFILE, parts.profile),
        (CURVES, parts.curves),
        (EXPLANATION, parts.explanation),
        (ORIGIN, parts.origin),
        (STUDY, parts.study),
    ):
        if part is not None:
            files[name] = canonical(part.model_dump(mode="json", by_alias=True))
    for name, content in files.items():
        (directory / name).write_bytes(content)
    digest = write_manifest(directory)
    open_package(directory, digest).check()
    return digest
