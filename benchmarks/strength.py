"""Effect of `fairness.strength` on census income, by batch, and cost of its default:
`python benchmarks/strength.py`.

The example's pipeline and data over five seeded splits and 8 epochs: the equalized odds difference of
the decisions on the audit part, by sex and by race (the three smallest groups merged), at strength 0.3
in batches of 512 and of 64; and by sex the difference and the AUROC without a constraint and at the
default strength.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from quality import Data, adult_income, module, splits, write
from sklearn.metrics import roc_auc_score

from penstock.contracts.pipeline import FairnessConstraint, Pipeline
from penstock.modelkit.build import build
from penstock.modelkit.model import run
from penstock.modelkit.rows import read

SEEDS, EPOCHS = 5, 8
MERGED = {"race": {"other": ["Amer-Indian-Eskimo", "Asian-Pac-Islander", "Other"]}, "sex": {}}
DEFAULT = FairnessConstraint.model_fields["strength"].default

Array = np.ndarray[Any, Any]


def pipeline(data: Data, seed: int, by: str, strength: float, batch: int) -> Pipeline:
    said = data.pipeline(seed).model_dump(mode="json", by_alias=True, exclude_unset=True)
    said["audit"] = {"groups": {by: {"merge": MERGED[by]} if MERGED[by] else {}}}
    said["trainer"] |= {"epochs": EPOCHS, "batch_size": batch}
    if strength:
        said["trainer"]["fairness"] = {"notion": "equalized_odds", "by": by, "strength": strength}
    return Pipeline.model_validate(said)


def measured(data: Data, by: str, of: Array, strength: float, batch: int) -> tuple[list[float], list[float]]:
    """Equalized odds differences and AUROCs, one a seed."""
    differences, aurocs = [], []
    others = {name: other for other, names in MERGED[by].items() for name in names}
    shown = np.array([others.get(group, group) for group in of])
    for seed, parts in splits(len(data.positive), SEEDS):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(data, parts, folder)
            for part, rows in parts.items():
                path = folder / f"{part}.parquet"
                pq.write_table(pq.read_table(path).append_column(f"__group_{by}", pa.array(of[rows])), path)
            asked = pipeline(data, seed, by, strength, batch)
            built = build(asked, folder / "train.parquet", folder / "validation.parquet")
            answers = run(built.model, read(folder / "audit.parquet", built.signature, asked))
        truth, groups = data.positive[parts["audit"]], shown[parts["audit"]]
        chosen = answers["decision"][:, 0] == "true"
        differences.append(max(_widest(chosen[truth == label], groups[truth == label]) for label in (0, 1)))
        aurocs.append(float(roc_auc_score(truth, answers["probabilities"][:, 1])))
    return differences, aurocs


def _widest(chosen: Array, groups: Array) -> float:
    return float(np.ptp([chosen[groups == group].mean() for group in np.unique(groups)]))


def figures() -> dict[str, Any]:
    data = adult_income()
    people = pd.DataFrame(module("adult-income").people())
    found: dict[str, Any] = {"seeds": SEEDS, "default": DEFAULT}
    for by in ("sex", "race"):
        of = people[by].to_numpy().astype(object)
        found[by] = {batch: float(np.mean(measured(data, by, of, 0.3, batch)[0])) for batch in (512, 64)}
    sex = people["sex"].to_numpy().astype(object)
    for name, strength in (("without", 0.0), ("with", DEFAULT)):
        differences, aurocs = measured(data, "sex", sex, strength, 256)
        found[name] = {"difference": float(np.mean(differences)), "auroc": float(np.mean(aurocs))}
    return found


if __name__ == "__main__":
    print(json.dumps(figures(), indent=None if "--json" in sys.argv else 1))
