"""Costs of an audit's resampling: `python benchmarks/audits.py`.

A million rows in four groups under 1,000 draws, in a process of its own: seconds and memory. And
as many rows as the example's audit has, against Fairlearn's `MetricFrame` on the same rows, in
turn, with a hundredth of the draws that it is asked for: each draw costs it the same.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from typing import Any

import numpy as np
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from sklearn.metrics import accuracy_score

from penstock.contracts.pipeline import Audit
from penstock.measures.groups import Grouping, divide
from penstock.measures.scores import Scores
from penstock_ethics_audit.audit import audit

LARGE, SMALL, DRAWS, REPEATS = 1_000_000, 14_653, 1000, 3
THEIR_DRAWS = 10
SPEC = Audit.model_validate({"groups": {"region": {}}, "resamples": DRAWS})


def rows(n: int) -> tuple[Scores, Grouping]:
    """Scores whose classes overlap as those of census income do, and four groups of unequal size."""
    generator = np.random.default_rng(18)
    truth = (generator.random(n) < 0.24).astype(np.int64)
    p = 1 / (1 + np.exp(-(1.3 * generator.normal(size=n) + 3 * truth - 2)))
    regions = np.array(["north", "east", "south", "west"])[generator.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])]
    scores = Scores(
        "binary",
        truth.astype(np.float64),
        np.arange(n),
        ("no", "yes"),
        np.stack([1 - p, p], axis=1),
        (p > 0.5).astype(np.int64),
    )
    return scores, divide("region", regions)


def large() -> dict[str, float]:
    """Seconds, and bytes over what the rows themselves take."""
    scores, grouping = rows(LARGE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    audit(scores, [grouping], SPEC, seed=1)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": took, "peak_mb": peak / 1024, "rows_mb": before / 1024}


def small() -> tuple[float, float]:
    """Seconds of one audit, and of as many draws of `MetricFrame`."""
    scores, grouping = rows(SMALL)
    began = time.perf_counter()
    audit(scores, [grouping], SPEC, seed=1)
    ours = time.perf_counter() - began
    measures = {
        "selection": selection_rate,
        "true_positive": true_positive_rate,
        "false_positive": false_positive_rate,
        "accuracy": accuracy_score,
    }
    began = time.perf_counter()
    MetricFrame(
        metrics=measures,
        y_true=scores.label_codes,
        y_pred=scores.chosen,
        sensitive_features=grouping.codes,
        n_boot=THEIR_DRAWS,
        ci_quantiles=[0.025, 0.975],
        random_state=1,
    )
    return ours, (time.perf_counter() - began) * DRAWS / THEIR_DRAWS


def main() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        found: dict[str, Any] = alone.apply(large)
    pairs = [small() for _ in range(REPEATS)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(json.dumps(found | {"ours_s": ours, "metric_frame_s": theirs}))


if __name__ == "__main__":
    main()
