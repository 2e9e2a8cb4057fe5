"""The autoencoder on Shuttle, beside detectors fitted on the same normal rows: `python
benchmarks/anomalies.py`.

The pipeline file is that of examples/machine-telemetry. AUROC is of the audit part, of which
training saw nothing; the isolation forest is scikit-learn's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import quality
from sklearn.ensemble import IsolationForest
from sklearn.metrics import precision_score, roc_auc_score

from penstock.modelkit.detectors import mahalanobis
from penstock.modelkit.model import run


def measure(seeds: int) -> dict[str, Any]:
    data = quality.machine_telemetry()
    columns = data.features.to_numpy(np.float64)
    names = ("autoencoder", "mahalanobis", "isolation_forest", "precision", "parity")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed, parts in quality.splits(len(columns), seeds):
        truth, unseen = data.positive[parts["audit"]], columns[parts["audit"]]
        normal = columns[parts["train"][data.positive[parts["train"]] == 0]]
        with tempfile.TemporaryDirectory() as folder:
            built, rows = quality.trained(data, parts, seed, Path(folder))
        said = run(built.model, rows)
        forest = IsolationForest(random_state=seed).fit(normal)
        for name, score in (
            ("autoencoder", said["probabilities"][:, 1]),
            ("mahalanobis", mahalanobis(normal)(unseen)),
            ("isolation_forest", -forest.score_samples(unseen)),
        ):
            found[name].append(roc_auc_score(truth, score))
        found["precision"].append(precision_score(truth, said["decision"][:, 0] == "true"))
        found["parity"].append(built.parity)
        told = "  ".join(f"{name} {values[-1]:.4g}" for name, values in found.items())
        print(f"  seed {seed}  {told}", file=sys.stderr)
    apart = np.subtract(found["autoencoder"], found["mahalanobis"])
    lower, upper = quality.interval(apart, 0.0)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {
        **means,
        "seeds": seeds,
        "worst": min(found["autoencoder"]),
        "parity": max(found["parity"]),
        "difference": float(apart.mean()),
        "lower": lower,
        "upper": upper,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.seeds)
    told = "\n".join(f"{name:<16} {value:.6g}" for name, value in found.items())
    print(json.dumps(found) if chosen.json else told)


if __name__ == "__main__":
    main()
