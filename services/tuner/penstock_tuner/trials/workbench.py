"""The folder that a study's trials work in: the parts of its training set, folds, and what
`preparation` keeps.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from penstock.contracts.pipeline import Pipeline
from penstock_tuner.trials.folds import default_folds, fold_files, rows_of, write_folds


class Workbench(BaseModel, frozen=True):
    """Train and validation part of a study; the audit part is never here."""

    folder: Path

    @property
    def train(self) -> Path:
        return self.folder / "train.parquet"

    @property
    def validation(self) -> Path:
        return self.folder / "validation.parquet"

    @property
    def folds(self) -> list[tuple[Path, Path]]:
        """Pairs of files, rows to train on and rows to measure on; none where the study's own parts
        are all.
        """
        return fold_files(self.folder)

    def fill(self, train: Path, validation: Path, pipeline: Pipeline, folds: int | None = None) -> None:
        """Empties the folder, moves both parts there and writes the folds: so many, by default as
        `default_folds` says. 1: none.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        shutil.move(train, self.train)
        shutil.move(validation, self.validation)
        count = folds or default_folds(pipeline, rows_of(self.train, self.validation))
        if count > 1:
            write_folds(self.train, self.validation, count, self.folder)

    def packed(self) -> dict[str, bytes]:
        """Content of its files by name, for another machine."""
        return {path.name: path.read_bytes() for path in self.folder.glob("*.parquet")}

    def unpack(self, files: Mapping[str, bytes]) -> None:
        """Writes what `packed` gave; the folder is there."""
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
