"""The audit split as the model's inputs, and what the packaged graph says about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.contracts.errors import Invalid, PenstockError
from penstock.measures.scores import ABSTAINED, Codes, Floats, Scores
from penstock.packages.parts import ModelSignature
from penstock_ethics_audit.graphs import Graph

ABSTAIN = "abstain"  # the graph's `decision` where it abstains
ROWS_AT_ONCE = 2048
_GROUP = "__group_"


@dataclass(frozen=True)
class Split:
    """N rows. `numbers` [N, n], missing is NaN; `strings` [N, m], missing is ""; in the signature's
    field order.
    """

    numbers: Floats
    strings: NDArray[np.object_]
    labels: Floats
    entities: tuple[str, ...]
    ids: tuple[str, ...]
    groups: dict[str, tuple[str | float | None, ...]]  # raw values by field

    def __len__(self) -> int:
        return len(self.labels)

    def seed(self) -> int:
        """Seed of all that is drawn of these rows, from their ids: the same rows give the same draws,
        whatever model they judge, so that training again draws no luckier interval.
        """
        return int(hashlib.sha256("\0".join(sorted(self.ids)).encode()).hexdigest()[:12], 16)

    def take(self, rows: Codes) -> Split:
        """Some of the rows, in this order."""
        return Split(
            self.numbers[rows],
            self.strings[rows],
            self.labels[rows],
            tuple(self.entities[row] for row in rows),
            tuple(self.ids[row] for row in rows),
            {by: tuple(values[row] for row in rows) for by, values in self.groups.items()},
        )


def read_split(path: Path, signature: ModelSignature) -> Split:
    """Raises Invalid where the split lacks what the model needs, or has no rows."""
    table = pq.read_table(path)
    wanted = [*signature.inputs.numbers, *signature.inputs.strings, "__entity", "__id", "__label"]
    if absent := [name for name in wanted if name not in table.column_names]:
        raise Invalid(
            f"the audit split has no column {', '.join(f'`{name}`' for name in absent)}",
            remedy="Train again for this pipeline number",
        )
    if table.num_rows == 0:
        raise Invalid(
            "the audit split has no rows",
            where="split.parts.audit",
            remedy="Publish more labelled events, or give it a larger part",
        )
    labels = table["__label"].cast(pa.float64()).to_numpy()
    if np.isnan(labels).any():
        raise Invalid(
            f"{int(np.isnan(labels).sum())} of {len(labels)} audit rows have no label", remedy="Train again"
        )
    return Split(
        numbers=_columns(
            [table[name].cast(pa.float64()).to_numpy() for name in signature.inputs.numbers],
            table.num_rows,
            np.float64,
        ),
        strings=_columns(
            [table[name].cast(pa.string()).fill_null("").to_numpy() for name in signature.inputs.strings],
            table.num_rows,
            np.object_,
        ),
        labels=labels,
        entities=tuple(map(str, table["__entity"].to_pylist())),
        ids=tuple(map(str, table["__id"].to_pylist())),
        groups={
            name.removeprefix(_GROUP): tuple(table[name].to_pylist())
            for name in table.column_names
            if name.startswith(_GROUP)
        },
    )


def read_merged(path: Path) -> dict[str, int]:
    """Rows of the training set by each value of a binary target that counts as the negative class, where
    there are several.
    """
    metadata = pq.read_schema(path).metadata or {}
    return dict(json.loads(metadata.get(b"penstock", b"{}")).get("merged", {}))


def score(split: Split, graph: Graph, signature: ModelSignature) -> Scores:
    """Runs the packaged graph over all rows: the very bytes that are signed and served, threshold
    and abstaining included.

    Raises Invalid where the graph does not answer as its signature says, Refused where it breaks a
    bound.
    """
    try:
        answers = [_run(graph, split, start, signature) for start in range(0, len(split), ROWS_AT_ONCE)]
    except PenstockError:
        raise
    except Exception as error:  # ONNX Runtime's own errors share no base
        raise Invalid(
            f"the packaged graph does not run: {error}", where="model.onnx", remedy="Train again"
        ) from error
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in signature.outputs}
    units = np.unique(np.array(split.entities, dtype=object), return_inverse=True)[1].astype(np.int64)
    if signature.target.type == "regression":
        intervals = _finite(outputs["interval"], "interval") if "interval" in outputs else None
        values = _finite(outputs["value"][:, 0], "value")
        return Scores.of_numbers(split.labels, units, values, intervals)
    probabilities = _finite(outputs["probabilities"], "probabilities")
    if not np.isin(split.labels, np.arange(len(signature.classes))).all():
        raise Invalid(
            f"the audit split holds labels that are none of the model's {len(signature.classes)} classes",
            remedy="Train again",
        )
    decisions = _decisions(outputs["decision"][:, 0], signature.classes)
    return Scores(signature.target.type, split.labels, units, signature.classes, probabilities, decisions)


def write_scores(split: Split, scores: Scores, path: Path) -> None:
    """Writes the file that the comparison with a champion reads: `row` and `entity` (hashes, alike for
    every model), `label`, and the model's answers.

    `probability` of the positive class, or `probabilities` [N, k], and `decision` (class index, -1
    abstained); or `value`. Plain arrays in an `.npz`, which numpy alone reads without pickles; it
    notes no time, so the same scores are the same bytes.
    """
    arrays: dict[str, NDArray[Any] | None] = {
        "row": row_names(split),
        "entity": np.array([_hashed(entity) for entity in split.entities], np.bytes_),
        "label": scores.labels,
        "value": scores.values,
        "probabilities": scores.probabilities if scores.task == "multiclass" else None,
        "probability": scores.said[:, 1] if scores.task == "binary" else None,
        "decision": scores.decisions,
    }
    np.savez_compressed(
        path, allow_pickle=False, **{name: values for name, values in arrays.items() if values is not None}
    )


def row_names(split: Split) -> NDArray[np.bytes_]:
    """Names [N] of rows that are the same in every training set that a row is in."""
    pairs = zip(split.entities, split.ids, strict=True)
    return np.array([_hashed(entity, event) for entity, event in pairs], np.bytes_)


def _run(graph: Graph, split: Split, start: int, signature: ModelSignature) -> dict[str, NDArray[Any]]:
    rows, names = slice(start, start + ROWS_AT_ONCE), list(signature.outputs)
    inputs = {"numbers": split.numbers[rows], "strings": split.strings[rows]}
    feed = {name: columns for name, columns in inputs.items() if columns.shape[1]}
    return dict(zip(names, graph.run(names, feed), strict=True))


def _columns(columns: Sequence[NDArray[Any]], rows: int, dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty((rows, 0), dtype), *(column[:, None] for column in columns)], axis=1)


def _finite(values: NDArray[Any], name: str) -> Floats:
    numbers: Floats = values.astype(np.float64)
    if wrong := int((~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)).sum()):
        raise Invalid(
            f"the model's `{name}` is no number for {wrong} of {len(numbers)} audit rows",
            where="model.onnx",
            remedy="Train again",
        )
    return numbers


def _decisions(said: NDArray[Any], classes: tuple[str, ...]) -> Codes:
    index = {ABSTAIN: ABSTAINED} | {name: code for code, name in enumerate(classes)}
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in said]
    if unknown := sorted(set(texts) - index.keys()):
        raise Invalid(
            f"the model decides {unknown[0]!r}, which is none of its classes",
            where="model.onnx",
            remedy="Train again",
        )
    return np.array([index[text] for text in texts], dtype=np.int64)


def _hashed(*parts: str) -> str:
    """128 bits of sha256. Stable, so that two audits' rows can be paired; whoever knows an id can
    find its row, so it is personal data.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
