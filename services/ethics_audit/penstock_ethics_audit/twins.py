"""Audit rows with a twin in the training part: a row equal in all of the model's inputs and the label.

A model that remembers its rows is right about them, so copies that were published under other ids
make every figure too good. Tables of few categories have twins by nature: which, and how many, is
told apart by how often the audit rows' patterns occur in the training part. In rows that are drawn
independently that number is Poisson distributed given the pattern, so over all patterns it is a
Poisson mixture, and for such a mixture k g(k)² <= (k + 1) g(k - 1) g(k + 1), g(k) being the share of
patterns that occur k times (the log-convexity of moments, by Cauchy and Schwarz; for species of
animals I. J. Good, *The population frequencies of species*, 1953). Copies break it: of rows that
were all published twice most patterns occur once, and hardly any twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.packages.parts import ModelSignature
from penstock_ethics_audit.audit import Finding

ROWS_AT_ONCE = 65_536
MOST_TIMES = 16  # occurrences up to which the rule is tested; copies are rarely more
Z = 3.0  # standard errors that a count may be off by chance
OWN = 0.9  # least entities a row, for rows to count as drawn independently

Hashes = NDArray[np.uint64]


class Twins(Finding):
    rows: int  # audit rows that have one
    audit_rows: int
    train_rows: int
    # Whether the rule above is broken; None where entities have several rows each, which it is not for.
    copies: bool | None


def twins(audit_part: Path, train_part: Path, signature: ModelSignature, entities: int) -> Twins:
    """Counts them. Holds 16 bytes for each audit row, and of the training part one batch. `entities`: of
    the audit rows.
    """
    audit = np.concatenate([_hashes(batch, signature) for batch in _batches(audit_part, signature)])
    patterns, rows = np.unique(audit, return_counts=True)
    times, train_rows = np.zeros(len(patterns), np.int64), 0
    for batch in _batches(train_part, signature):
        hashes = _hashes(batch, signature)
        places = np.minimum(np.searchsorted(patterns, hashes), len(patterns) - 1)
        times += np.bincount(places[patterns[places] == hashes], minlength=len(patterns))
        train_rows += len(hashes)
    return Twins(
        rows=int(rows[times > 0].sum()),
        audit_rows=len(audit),
        train_rows=train_rows,
        copies=copied(times) if entities >= OWN * len(audit) else None,
    )


def copied(times: NDArray[np.int64]) -> bool:
    """Tells whether some number of occurrences is commoner than chance explains, by bounds of `Z`
    standard errors (of a Poisson count's square root: F. J. Anscombe, 1948). `times` [N]: in the
    training part, of each distinct audit row.
    """
    counts = np.bincount(np.minimum(times, MOST_TIMES + 2), minlength=MOST_TIMES + 3)[: MOST_TIMES + 2]
    least = np.maximum(np.sqrt(counts) - Z / 2, 0) ** 2
    most = (np.sqrt(counts + 1) + Z / 2) ** 2
    k = np.arange(1, MOST_TIMES + 1)
    return bool((k * least[1:-1] ** 2 > (k + 1) * most[:-2] * most[2:]).any())


def _batches(part: Path, signature: ModelSignature) -> Iterator[pa.RecordBatch]:
    wanted = [*signature.inputs.numbers, *signature.inputs.strings, "__label"]
    with pq.ParquetFile(part) as file:
        yield from file.iter_batches(ROWS_AT_ONCE, columns=wanted)


def _hashes(rows: pa.RecordBatch, signature: ModelSignature) -> Hashes:
    """64 bits a row, of its inputs as the model gets them and its label."""
    found: Hashes = np.zeros(rows.num_rows, np.uint64)
    for name in (*signature.inputs.numbers, "__label"):
        values = rows.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0  # no -0.0
        values[np.isnan(values)] = np.nan  # one of many
        found = _mixed(found, values.view(np.uint64))
    for name in signature.inputs.strings:
        texts = rows.column(name).cast(pa.string()).fill_null("").dictionary_encode()
        known = [
            hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.dictionary.to_pylist()
        ]
        found = _mixed(found, np.frombuffer(b"".join(known), np.uint64)[texts.indices.to_numpy()])
    return found


def _mixed(before: Hashes, values: Hashes) -> Hashes:
    """Mixes in one column more, by the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, 2014)."""
    mixed = (before + np.uint64(0x9E3779B97F4A7C15)) ^ values
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
