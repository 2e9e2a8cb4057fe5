"""What a model package is: a flat directory of nine files, named by the digest of the one that
lists the others.

`manifest.json` holds the sha256 and the size of every other file, as canonical JSON; its own sha256
is the package's digest and the model version's identity. So the digest covers every byte: who
trusts the digest and opens the package with `open_package` trusts its content. The package says
nothing of who trusts it: the OpenSSF signature `model.sig` lies beside the directory, and evidence
travels in events.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Invalid, Tampered
from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline

FORMAT = "penstock.package.v1"

MANIFEST = "manifest.json"
MODEL = "model.onnx"
PIPELINE = "pipeline.json"
SIGNATURE = "signature.json"
METRICS = "metrics.json"
TRAINING_SET = "training_set.json"
PROFILE = "profile.json"
CURVES = "curves.json"
MODEL_CARD = "model_card.md"
REQUIRED = frozenset({MODEL, PIPELINE, SIGNATURE, METRICS, TRAINING_SET, PROFILE, CURVES, MODEL_CARD})
"""Files that every package has; the manifest may list more."""

MAX_FILES = 64
MAX_MANIFEST_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class _Part(BaseModel):
    """`extra` is ignored when reading: a newer trainer may say more. Numbers are finite: JSON has no NaN."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


# -- signature.json: how to call the graph ---------------------------------------------------------


class Inputs(_Part):
    """Feature names in tensor order. A tensor without fields is absent from the graph."""

    numbers: tuple[str, ...] = ()
    """Columns of `numbers`, FP64 [N, n]; missing is NaN."""
    strings: tuple[str, ...] = ()
    """Columns of `strings`, BYTES [N, m]; missing is "". A boolean is "true" or "false"."""


class Output(_Part):
    datatype: Literal["FP32", "FP64", "INT64", "BYTES"]
    columns: int = Field(ge=1)
    """The shape is [N, columns]."""


class TargetSignature(_Part):
    name: str
    type: Literal["binary", "multiclass", "regression"]


class ModelSignature(_Part):
    inputs: Inputs
    outputs: dict[str, Output]
    """`probabilities` FP32 [N, k] or `value` FP32 [N, 1], and `decision` BYTES [N, 1]."""
    classes: tuple[str, ...] = ()
    """What the columns of `probabilities` stand for, and what `decision` says; empty for regression."""
    target: TargetSignature


# -- profile.json: what the training split looks like, and rows to probe a loaded model with -------


class NumberProfile(_Part):
    kind: Literal["number"] = "number"
    rows: int = Field(ge=0)
    missing: int = Field(ge=0)
    mean: float | None = None
    standard_deviation: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    edges: tuple[float, ...] = ()
    """Inner histogram edges, rising: quantiles of the training split."""
    counts: tuple[int, ...] = ()
    """Rows in each of the len(edges) + 1 bins [edge, next edge)."""


class StringProfile(_Part):
    kind: Literal["string"] = "string"
    rows: int = Field(ge=0)
    missing: int = Field(ge=0)
    values: dict[str, int] = Field(default_factory=dict)
    """The most frequent values and their rows; none for free text."""
    other: int = Field(default=0, ge=0)
    """Rows whose value is not listed."""


class Probes(_Part):
    """Rows drawn from the profile, no person's own, and what the graph answers to them: a loaded
    model must answer the same.
    """

    numbers: tuple[tuple[float | None, ...], ...] = ()
    """Row by row in `signature.inputs.numbers` order; None is NaN. Empty without number inputs."""
    strings: tuple[tuple[str, ...], ...] = ()
    outputs: dict[str, tuple[tuple[float, ...], ...] | tuple[tuple[str, ...], ...]]
    """Expected, by output name, row by row."""
    tolerance: float = Field(default=1e-6, ge=0)
    """Largest absolute difference of a number; text must be equal."""


class Profile(_Part):
    features: dict[str, NumberProfile | StringProfile]
    probes: Probes


# -- curves.json -----------------------------------------------------------------------------------


class CurvePoint(_Part):
    epoch: int
    train_loss: float
    validation_loss: float
    validation_metric: float
    learning_rate: float
    elapsed_s: float


class Curves(_Part):
    metric: str
    """What `validation_metric` is."""
    points: tuple[CurvePoint, ...]


# -- manifest.json ---------------------------------------------------------------------------------


class FileEntry(_Part):
    sha256: str = Field(pattern=_HEX.pattern)
    size: int = Field(ge=0)


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["penstock.package.v1"]
    files: dict[str, FileEntry]


# -- reading ---------------------------------------------------------------------------------------

_PartT = TypeVar("_PartT", bound=BaseModel)
_METRICS: TypeAdapter[dict[str, float]] = TypeAdapter(
    dict[str, float], config=ConfigDict(allow_inf_nan=False)
)


@dataclass(frozen=True)
class Package:
    """An opened package: every file's hash held when it was opened. Typed parts raise Invalid when
    their content is not theirs.
    """

    directory: Path
    digest: str
    """`sha256:` and 64 hex digits: of the manifest."""
    manifest: Manifest

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.directory / MODEL

    @cached_property
    def pipeline(self) -> Pipeline:
        """The effective pipeline: the file as applied, with the run's overrides."""
        return self._part(PIPELINE, Pipeline)

    @cached_property
    def signature(self) -> ModelSignature:
        return self._part(SIGNATURE, ModelSignature)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Of the validation split."""
        try:
            return _METRICS.validate_json(self.read(METRICS))
        except ValidationError as error:
            raise _invalid(METRICS, error) from error

    @cached_property
    def training_set(self) -> TrainingSet:
        return self._part(TRAINING_SET, TrainingSet)

    @cached_property
    def profile(self) -> Profile:
        return self._part(PROFILE, Profile)

    @cached_property
    def curves(self) -> Curves:
        return self._part(CURVES, Curves)

    @property
    def model_card(self) -> str:
        return self.read(MODEL_CARD).decode()

    def read(self, name: str) -> bytes:
        """A listed file's bytes, hashed anew. Raises Tampered."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise Invalid("the package lists no such file", where=name)
        content = (self.directory / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise Tampered("the file is not the one that the manifest lists", where=name)
        return content

    def check(self) -> None:
        """Reads every typed part and holds them against each other. Raises Invalid with the first
        thing that does not fit.
        """
        signature, pipeline, profile = self.signature, self.pipeline, self.profile
        _ = self.metrics, self.curves, self.model_card
        if self.training_set.pipeline != pipeline.pipeline:
            raise Invalid(
                f"names pipeline {self.training_set.pipeline!r}, not {pipeline.pipeline!r}",
                where=TRAINING_SET,
            )
        fields = (*signature.inputs.numbers, *signature.inputs.strings)
        if len(set(fields)) != len(fields) or not fields:
            raise Invalid("inputs must name at least one feature, and each once", where=SIGNATURE)
        if wrong := sorted(set(fields) ^ set(pipeline.resolved_features())):
            raise Invalid(f"inputs and the pipeline's features differ in {', '.join(wrong)}", where=SIGNATURE)
        if wrong := sorted(set(fields) ^ set(profile.features)):
            raise Invalid(f"the profile and the inputs differ in {', '.join(wrong)}", where=PROFILE)
        if signature.target.type == "regression":
            if "value" not in signature.outputs:
                raise Invalid("a regression has the output `value`", where=SIGNATURE)
        elif (
            "probabilities" not in signature.outputs
            or len(signature.classes) != signature.outputs["probabilities"].columns
        ):
            raise Invalid(
                "a classifier has the output `probabilities` with one column a class", where=SIGNATURE
            )
        _check_probes(profile.probes, signature)

    def _part(self, name: str, model: type[_PartT]) -> _PartT:
        try:
            return model.model_validate_json(self.read(name))
        except ValidationError as error:
            raise _invalid(name, error) from error


def _invalid(name: str, error: ValidationError) -> Invalid:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return Invalid(f"{key + ': ' if key else ''}{first['msg']}", where=name)


def _check_probes(probes: Probes, signature: ModelSignature) -> None:
    rows = {len(rows) for rows in probes.outputs.values()}
    for name, fields, values in (
        ("numbers", signature.inputs.numbers, probes.numbers),
        ("strings", signature.inputs.strings, probes.strings),
    ):
        if fields:
            rows.add(len(values))
        if any(len(row) != len(fields) for row in values):
            raise Invalid(f"probes.{name}: a row must have {len(fields)} values", where=PROFILE)
    if len(rows) != 1 or rows == {0} or set(probes.outputs) != set(signature.outputs):
        raise Invalid(
            "probes need the same rows, at least one, for every input and every output of the signature",
            where=PROFILE,
        )


def open_package(directory: Path, digest: str | None = None) -> Package:
    """Opens a package and verifies all of it: the manifest, each file's size and hash, that nothing
    else lies there.

    With `digest` (`sha256:…`) it must be that package. Raises Tampered that names the file.
    """
    manifest_bytes = _manifest_bytes(directory)
    found = digest_of(manifest_bytes)
    if digest is not None and found != digest:
        raise Tampered(f"this is package {found}, not {digest}", where=MANIFEST)
    manifest = _parse_manifest(manifest_bytes)
    with os.scandir(directory) as entries:
        present = {entry.name for entry in entries}
    if extra := sorted(present - manifest.files.keys() - {MANIFEST}):
        raise Tampered("the manifest does not list this file", where=extra[0])
    for name, entry in sorted(manifest.files.items()):
        if name not in present:
            raise Tampered("the file is missing", where=name)
        size, sha256 = _hash_regular(directory / name)
        if (size, sha256) != (entry.size, entry.sha256):
            raise Tampered("the file is not the one that the manifest lists", where=name)
    return Package(directory, found, manifest)


def _manifest_bytes(directory: Path) -> bytes:
    path = directory / MANIFEST
    try:
        status = path.lstat()
    except OSError as error:
        raise Tampered("no package: there is no manifest", where=str(path)) from error
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
        raise Tampered("the manifest must be a regular, small file", where=MANIFEST)
    return path.read_bytes()


def _parse_manifest(content: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise Tampered(f"no manifest of {FORMAT}: {error.errors()[0]['msg']}", where=MANIFEST) from error
    if canonical(manifest.model_dump(mode="json")) != content:
        raise Tampered("the manifest is not canonical JSON", where=MANIFEST)
    if len(manifest.files) > MAX_FILES:
        raise Tampered(f"more than {MAX_FILES} files", where=MANIFEST)
    for name in manifest.files:
        if name == MANIFEST or not is_plain_name(name):
            raise Tampered(f"{name!r} may not be in a package", where=MANIFEST)
    if missing := sorted(REQUIRED - manifest.files.keys()):
        raise Tampered("the manifest does not list this file", where=missing[0])
    return manifest


def is_plain_name(name: str) -> bool:
    """Letters, digits, `_`, `.`, `-`, not beginning with a dot or dash: no folder, no way out of one."""
    return _NAME.fullmatch(name) is not None


def _hash_regular(path: Path) -> tuple[int, str]:
    """Size and sha256; symbolic links, folders and devices are refused without being followed or
    opened for long.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Tampered("the file is a link or cannot be read", where=path.name) from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Tampered("not a regular file", where=path.name)
        digest = hashlib.sha256()
        size = 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


# -- writing ---------------------------------------------------------------------------------------


def write_package(
    directory: Path,
    *,
    model: Path | bytes,
    pipeline: Pipeline,
    signature: ModelSignature,
    metrics: dict[str, float],
    training_set: TrainingSet,
    profile: Profile,
    curves: Curves,
    model_card: str,
) -> str:
    """Writes a whole package into `directory` (made if missing, must be empty) and returns its digest.

    What is written is opened and checked again, so that a trainer never hands out a package that
    nobody can load. Raises Invalid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise Invalid("the directory is not empty", where=str(directory))
    if isinstance(model, bytes):
        (directory / MODEL).write_bytes(model)
    else:
        shutil.copyfile(model, directory / MODEL)
    for name, part in (
        (PIPELINE, pipeline),
        (SIGNATURE, signature),
        (TRAINING_SET, training_set),
        (PROFILE, profile),
        (CURVES, curves),
    ):
        (directory / name).write_bytes(canonical(part.model_dump(mode="json", by_alias=True)))
    (directory / METRICS).write_bytes(canonical(dict(metrics)))
    (directory / MODEL_CARD).write_text(model_card, encoding="utf-8")
    digest = finish(directory)
    open_package(directory, digest).check()
    return digest


def finish(directory: Path) -> str:
    """Writes `manifest.json` over the files that lie in `directory`. Returns the digest,
    `sha256:…`. Raises Invalid.
    """
    files: dict[str, FileEntry] = {}
    for path in sorted(directory.iterdir()):
        if path.name == MANIFEST:
            continue
        if not is_plain_name(path.name) or path.is_symlink() or not path.is_file():
            raise Invalid("a package holds plain files only", where=path.name)
        size, sha256 = _hash_regular(path)
        files[path.name] = FileEntry(sha256=sha256, size=size)
    if missing := sorted(REQUIRED - files.keys()):
        raise Invalid(f"the package lacks {', '.join(missing)}", where=str(directory))
    if len(files) > MAX_FILES:
        raise Invalid(f"more than {MAX_FILES} files", where=str(directory))
    content = canonical(Manifest(format=FORMAT, files=files).model_dump(mode="json"))
    (directory / MANIFEST).write_bytes(content)
    return digest_of(content)


def canonical(value: JsonValue | dict[str, float]) -> bytes:
    """Canonical JSON: keys sorted, no spaces, UTF-8. Equal values give equal bytes. Raises
    ValueError for NaN and infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
