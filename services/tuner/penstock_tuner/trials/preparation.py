"""Rows prepared once for all trials of a study: what is computed of them lies in files that each trial
maps into its memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np

from penstock.contracts.pipeline import Ensemble, Pipeline
from penstock.modelkit.build import prepare
from penstock.modelkit.family import Prepared
from penstock.modelkit.features import Features, Inputs, Value, WordNumbers, WordWeights, transform
from penstock.modelkit.graph import Array
from penstock.modelkit.preprocessing import Preprocessing
from penstock.modelkit.rows import Rows
from penstock_tuner.trials.workbench import Workbench

Wanted = Callable[[Features], dict[str, Value]]
SPARSE = {"words": WordWeights, "numbers": WordNumbers}


def prepared(work: Workbench, pipeline: Pipeline, fold: int | None = None) -> Prepared:
    """Rows of the study's own parts, or of a fold, as a run prepares them. Raises Invalid.

    What the family learns from is computed by the first trial that asks for it, on this machine; one
    that asks meanwhile waits.
    """
    parts = (work.train, work.validation) if fold is None else work.folds[fold]
    if isinstance(pipeline.model, Ensemble):  # takes raw values, texts too, which cannot be mapped
        return prepare(pipeline, *parts)
    return prepare(pipeline, *parts, transform=partial(_kept, work.folder, pipeline.model.type))


def _kept(folder: Path, family: str, fitted: Preprocessing, rows: Rows, wanted: Wanted) -> Inputs:
    """`transform`, from its files where they are. They are named by all that the result follows from."""
    digest = hashlib.sha256(f"{family} {fitted!r} {rows.numbers.shape}".encode())
    digest.update(rows.numbers.tobytes())
    digest.update("\0".join(rows.strings.ravel()).encode())
    kept = folder / digest.hexdigest()[:32]
    with _alone(kept.with_suffix(".lock")):
        if not kept.exists():
            beside = kept.with_suffix(".new")
            shutil.rmtree(beside, ignore_errors=True)  # of a trial that was killed here
            beside.mkdir()
            _write(beside, transform(fitted, rows, wanted))
            beside.rename(kept)
    return _read(kept)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits for the lock, which a process that is killed gives back."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(folder: Path, inputs: Inputs) -> None:
    """A file for each array, `PLACE.NAME.npy`, and for each of a sparse one, `PLACE.NAME.KIND.FIELD.npy`."""
    for place, (name, value) in enumerate(inputs.items()):
        begun = folder / f"{place:03}.{name}"
        if isinstance(value, np.ndarray):
            np.save(f"{begun}.npy", value)
            continue
        kind = next(kind for kind, known in SPARSE.items() if isinstance(value, known))
        for field in fields(value):
            np.save(f"{begun}.{kind}.{field.name}.npy", np.asarray(getattr(value, field.name)))


def _read(folder: Path) -> Inputs:
    """Maps the arrays. They may be written to: the pages become the process's own."""
    found: dict[str, Array] = {}
    sparse: dict[str, tuple[str, dict[str, Array]]] = {}
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        _, name, *of = path.name.removesuffix(".npy").split(".")
        if of:
            kind, field = of
            sparse.setdefault(name, (kind, {}))[1][field] = array
            found.setdefault(name, array)  # keeps its place
        else:
            found[name] = array
    made = {name: _sparse(kind, parts) for name, (kind, parts) in sparse.items()}
    return {name: made.get(name, array) for name, array in found.items()}


def _sparse(kind: str, parts: dict[str, Array]) -> WordWeights | WordNumbers:
    if kind == "words":
        return WordWeights(parts["starts"], parts["columns"], parts["weights"], int(parts["width"]))
    return WordNumbers(parts["starts"], parts["numbers"])
