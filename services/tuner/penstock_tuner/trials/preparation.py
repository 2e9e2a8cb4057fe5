"""Rows prepared once for all trials of a study: what is computed of them lies in files that each trial
maps into its memory.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from penstock.contracts.pipeline import Ensemble, Pipeline
from penstock.modelkit import mapped
from penstock.modelkit.build import prepare
from penstock.modelkit.family import Prepared
from penstock.modelkit.features import Inputs, Wanted, chunks
from penstock.modelkit.preprocessing import Preprocessing
from penstock.modelkit.rows import RowSource
from penstock_tuner.trials.workbench import Workbench


def prepared(work: Workbench, pipeline: Pipeline, fold: int | None = None) -> Prepared:
    """Rows of the study's own parts, or of a fold, as a run prepares them. Raises Invalid.

    What the family learns from is computed by the first trial that asks for it, on this machine; one
    that asks meanwhile waits.
    """
    parts = (work.train, work.validation) if fold is None else work.folds[fold]
    if isinstance(pipeline.model, Ensemble):  # takes raw values, texts too, which cannot be mapped
        return prepare(pipeline, *parts)
    return prepare(pipeline, *parts, transform=partial(_kept, work.folder, pipeline.model.type))


def _kept(folder: Path, family: str, fitted: Preprocessing, rows: RowSource, wanted: Wanted) -> Inputs:
    """`transform`, from its files where they are. They are named by all that the result follows from."""
    digest = hashlib.sha256(f"{family} {fitted!r} {len(rows)}".encode())
    for chunk in rows.chunks(len(rows)):
        digest.update(chunk.numbers.tobytes())
        digest.update("\0".join(chunk.strings.ravel()).encode())
    kept = folder / digest.hexdigest()[:32]
    with _alone(kept.with_suffix(".lock")):
        if not kept.exists():
            mapped.write(kept, chunks(fitted, rows, wanted))
    return mapped.read(kept)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits for the lock, which a process that is killed gives back."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
