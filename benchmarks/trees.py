"""Boosted trees on census income against scikit-learn's gradient boosting: `python benchmarks/trees.py`.

The splits and the baseline are those of quality.py, the pipeline file is adult-income's with
`model: {type: boosted_trees}` and defaults. Parity is over all 48,842 rows, the audit's too. A row's
time is processor time of one request in ONNX Runtime, the least mean of ten hundreds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import quality
from sklearn.metrics import roc_auc_score

from penstock.contracts.pipeline import BoostedTrees, Trainer
from penstock.modelkit.build import prepare
from penstock.modelkit.family import family_of
from penstock.modelkit.features import transform
from penstock.modelkit.graph import Runner
from penstock.modelkit.model import run
from penstock.modelkit.rows import Rows, read


def measure(seeds: int) -> dict[str, Any]:
    census = quality.adult_income()
    declared = census.declared.model_copy(
        update={"model": BoostedTrees(type="boosted_trees"), "trainer": Trainer()}
    )
    data = replace(census, declared=declared)
    found: dict[str, list[float]] = {
        name: [] for name in ("ours", "theirs", "parity", "row_us", "graph_mb", "s")
    }
    for seed, parts in quality.splits(len(data.features), seeds):
        truth = data.positive[parts["audit"]]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            built, rows = quality.trained(data, parts, seed, Path(folder))
            found["s"].append(time.perf_counter() - began)
            found["ours"].append(roc_auc_score(truth, run(built.model, rows)["probabilities"][:, 1]))
            apart = parity(data.pipeline(seed), built.model, Path(folder))
        found["theirs"].append(roc_auc_score(truth, quality.sklearn(quality.boosting, data, parts)))
        found["parity"].append(max(built.parity, apart))
        found["row_us"].append(row_us(built.model, rows))
        found["graph_mb"].append(len(built.model) / 1e6)
        print(
            f"  seed {seed}  " + "  ".join(f"{name} {values[-1]:.4g}" for name, values in found.items()),
            file=sys.stderr,
        )
    return {
        "seeds": seeds,
        **quality.paired(found, "auroc"),
        "row_us": max(found["row_us"]),
        "graph_mb": max(found["graph_mb"]),
    }


def parity(pipeline: Any, graph: bytes, folder: Path) -> float:
    """The largest difference between LightGBM and the graph on rows that neither training nor the
    trainer's own check has seen.
    """
    prepared = prepare(pipeline, folder / "train.parquet", folder / "validation.parquet")
    family = family_of(pipeline.model)
    unseen = read(folder / "audit.parquet", prepared.signature, pipeline)
    expected = family.fit(pipeline, prepared).predict(
        transform(prepared.preprocessing, unseen, family.inputs)
    )
    return float(np.abs(expected - run(graph, unseen)["probabilities"]).max())


def row_us(graph: bytes, rows: Rows) -> float:
    """Processor time of one row, in microseconds."""
    runner = Runner(graph)
    one = rows.numbers[:1], rows.strings[:1]
    taken = []
    for _ in range(11):
        began = time.process_time()
        for _ in range(100):
            runner(*one)
        taken.append((time.process_time() - began) / 100 * 1e6)
    return min(taken[1:])  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.seeds)
    print(
        json.dumps(found)
        if chosen.json
        else "\n".join(f"{name:<10} {value:.6g}" for name, value in found.items())
    )


if __name__ == "__main__":
    main()
