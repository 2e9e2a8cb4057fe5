"""A file's defaults from 300 to 1,000,000 rows of one made table, against logistic regression and gradient
boosting on the same rows: `python benchmarks/rows.py ROWS…`.

scikit-learn makes the table: two classes of four clusters each in 10 informative numbers, 6 that follow
from these, 4 of noise, and 5 of 100 labels turned over; four of the columns are cut into categories.
Few rows are repeated on up to ten draws. Results are appended to a file.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from first_models import BASELINES, score, theirs
from quality import splits
from sklearn.datasets import make_classification
from table_sources import ROOT, Source, Table
from twenty_tables import ours

RESULTS = ROOT / ".cache" / "rows.jsonl"
MOST_DRAWS, DRAWS_OF = 10, 15_000
CUT = (0, 5, 11, 17)


def made(rows: int, draw: int) -> Table:
    """The first `rows` of one table; another `draw` takes others of it."""
    numbers, labels = make_classification(
        max(rows * (draw + 1), 20_000),
        n_features=20,
        n_informative=10,
        n_redundant=6,
        n_clusters_per_class=4,
        flip_y=0.05,
        random_state=7,
    )
    taken = slice(rows * draw, rows * (draw + 1))
    frame = pd.DataFrame(numbers, columns=[f"x{place}" for place in range(20)])
    for place in CUT:
        frame[f"x{place}"] = pd.qcut(frame[f"x{place}"], 12).cat.codes.map("c{}".format).astype(object)
    source = Source("made", lambda: frame, "y", "binary")
    return Table(source, frame.iloc[taken].reset_index(drop=True), labels[taken], ("0", "1"))


def measured(rows: int, draw: int) -> dict[str, Any]:
    table = made(rows, draw)
    [(_, parts)] = splits(rows, 1)
    truth, spent = table.labels[parts["audit"]], {}
    began = time.process_time()
    answers, kind = ours(table, parts, "")
    spent["penstock"] = time.process_time() - began
    found = {"penstock": score("binary", truth, answers)}
    for name in BASELINES:
        began = time.process_time()
        found[name] = score("binary", truth, theirs(name, "binary", table.features, table.labels, parts))
        spent[name] = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rows": rows, "draw": draw, "family": kind, **found, "cpu_s": spent, "memory_gb": memory}


def main() -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for rows in map(int, sys.argv[1:]):
        ahead = []
        for draw in range(max(1, min(MOST_DRAWS, DRAWS_OF // rows))):
            row = measured(rows, draw)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            ahead.append(row["penstock"] - max(row[name] for name in BASELINES))
            print(json.dumps(row), file=sys.stderr)
        print(f"{rows:,} rows, {len(ahead)} draws: {np.mean(ahead):+.4f} AUROC against the better")


if __name__ == "__main__":
    main()
