"""Quality of the models against scikit-learn's on the same splits: `python benchmarks/quality.py`.

The examples' own pipeline files and data: adult-income, 48,842 people over 5 seeded splits;
credit-risk, 4,454 loans over 20. Each split (60 % train, 10 % validation, 30 % audit) is written as
a training set and goes the trainer's way: fit, train, one ONNX graph, ONNX Runtime on the audit
part. Logistic regression and gradient boosting (defaults) learn from the same fields of the same
training part. The difference is paired by seed. Two intervals: the plain paired t, and that of C.
Nadeau, Y. Bengio, *Inference for the Generalization Error* (2003), which allows for splits that
share rows and so says what a new sample of people might give.
"""

from __future__ import annotations

import argparse
import importlib.util
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

from penstock.contracts.load import read as read_pipeline
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import Built, build
from penstock.modelkit.model import run
from penstock.modelkit.rows import Rows, read

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TRAIN, VALIDATION, AUDIT = 0.6, 0.1, 0.3
MUST = -0.01
"""The lower bound against logistic regression may not be below it."""


@dataclass(frozen=True)
class Data:
    """Example: its features (numbers as float64, all else as text or None), and what is to be foretold."""

    declared: Pipeline
    features: pd.DataFrame
    positive: np.ndarray[Any, np.dtype[np.int64]]
    seeds: int
    against: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.declared.pipeline

    @property
    def numbers(self) -> list[str]:
        return [name for name in self.features if self.features[name].dtype == np.float64]

    @property
    def categories(self) -> list[str]:
        return [name for name in self.features if self.features[name].dtype != np.float64]

    def pipeline(self, seed: int) -> Pipeline:
        """The example's file, with this seed."""
        return self.declared.model_copy(
            update={"training": self.declared.training.model_copy(update={"seed": seed})}
        )


def adult_income() -> Data:
    people = pd.DataFrame(module("adult-income").people())
    return _data("adult-income", people, people["over_50k"], 5, ("logistic", "boosting"))


def credit_risk() -> Data:
    applications, outcomes = module("credit-risk").loans()
    return _data("credit-risk", applications, outcomes["defaulted"], 20, ("logistic",))


def machine_telemetry() -> Data:
    readings = module("machine-telemetry").readings()
    return _data("machine-telemetry", readings, readings["anomaly"], 5, ())


def module(example: str) -> Any:
    """The example's data.py; it downloads the data once."""
    spec = importlib.util.spec_from_file_location(
        f"{example.replace('-', '_')}_data", EXAMPLES / example / "data.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _data(
    example: str, table: pd.DataFrame, positive: pd.Series, seeds: int, against: tuple[str, ...]
) -> Data:
    file = EXAMPLES / example / "pipeline.yaml"
    pipeline = read_pipeline(file.read_text(), str(file))
    features = {}
    for name, feature in pipeline.resolved_features().items():
        field, column = pipeline.field(feature.source_field), table[feature.source_field.partition(".")[2]]
        if field.type == "number":
            features[name] = column.astype(np.float64)
        else:
            texts = column.map(lambda value: str(value).lower() if isinstance(value, bool) else value)
            features[name] = texts.astype(object).where(texts.notna(), None)
    return Data(pipeline, pd.DataFrame(features), positive.to_numpy(dtype=np.int64), seeds, against)


# -- the models ------------------------------------------------------------------------------------


def trained(data: Data, parts: dict[str, Any], seed: int, folder: Path) -> tuple[Built, Rows]:
    """A model by the trainer's own way, and the audit part; the three parts stay in the folder."""
    write(data, parts, folder)
    pipeline = data.pipeline(seed)
    built = build(pipeline, folder / "train.parquet", folder / "validation.parquet")
    return built, read(folder / "audit.parquet", built.signature, pipeline)


def write(data: Data, parts: dict[str, Any], folder: Path) -> None:
    """The three parts of a training set."""
    for part, rows in parts.items():
        columns = {
            name: pa.array(data.features[name].to_numpy()[rows], from_pandas=True) for name in data.features
        }
        metadata = {"penstock": json.dumps({"classes": ["false", "true"]})}
        table = pa.table({**columns, "__label": data.positive[rows]}).replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{part}.parquet")


def penstock(data: Data, parts: dict[str, Any], seed: int, folder: Path) -> np.ndarray[Any, Any]:
    """Probabilities of the audit part."""
    built, rows = trained(data, parts, seed, folder)
    return run(built.model, rows)["probabilities"][:, 1]


def logistic(data: Data) -> Any:
    return make_pipeline(
        make_column_transformer(
            (
                make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
                data.numbers,
            ),
            (
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="missing"),
                    OneHotEncoder(handle_unknown="ignore"),
                ),
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


# -- the comparison --------------------------------------------------------------------------------


def splits(rows: int, seeds: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(rows)
        train, validation = round(TRAIN * rows), round((TRAIN + VALIDATION) * rows)
        yield (
            seed,
            {"train": order[:train], "validation": order[train:validation], "audit": order[validation:]},
        )


def interval(differences: np.ndarray[Any, Any], shared: float) -> tuple[float, float]:
    """95 %, paired t; `shared` is added to 1 / count for what the splits have in common."""
    count = len(differences)
    half = float(stats.t.ppf(0.975, count - 1) * np.sqrt((1 / count + shared) * differences.var(ddof=1)))
    return float(differences.mean()) - half, float(differences.mean()) + half


def paired(found: dict[str, list[float]], measure: str) -> dict[str, float]:
    """Means of `ours` and `theirs`, a value a seed, with the interval of their difference; the largest
    `parity`, and the mean of the seconds `s`.
    """
    differences = np.subtract(found["ours"], found["theirs"])
    lower, upper = interval(differences, 0.0)
    return {
        measure: float(np.mean(found["ours"])),
        f"its_{measure}": float(np.mean(found["theirs"])),
        "difference": float(differences.mean()),
        "lower": lower,
        "upper": upper,
        "parity": max(found["parity"]),
        "seconds": float(np.mean(found["s"])),
    }


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
            scores[name].append(
                roc_auc_score(truth, sklearn({"logistic": logistic, "boosting": boosting}[name], data, parts))
            )
        print(
            f"  {data.name} seed {seed}  "
            + "  ".join(f"{name} {values[-1]:.4f}" for name, values in scores.items()),
            file=sys.stderr,
        )
    rows = []
    for name in data.against:
        differences = np.subtract(scores["penstock"], scores[name])
        lower, upper = interval(differences, 0.0)
        wide = interval(differences, AUDIT / TRAIN)
        rows.append(
            {
                "data": data.name,
                "seeds": seeds,
                "auroc": float(np.mean(scores["penstock"])),
                "against": name,
                "its_auroc": float(np.mean(scores[name])),
                "difference": float(differences.mean()),
                "lower": lower,
                "upper": upper,
                "nadeau_bengio": wide,
                "seconds": seconds / seeds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("adult-income", "credit-risk"))
    parser.add_argument("--seeds", type=int, help="instead of 5 and 20")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = []
    for load, name in ((adult_income, "adult-income"), (credit_risk, "credit-risk")):
        if chosen.only in (None, name):
            data = load()
            rows += compare(data, chosen.seeds or data.seeds)
    if chosen.json:
        print(json.dumps(rows))
        return
    print(
        "data          seeds  AUROC   against   its AUROC  difference [paired 95 %]      [Nadeau, Bengio]   s"
        " a model"
    )
    for row in rows:
        low, high = row["nadeau_bengio"]
        print(
            f"{row['data']:<13} {row['seeds']:>5}  {row['auroc']:.4f}  {row['against']:<9}"
            f" {row['its_auroc']:.4f}     {row['difference']:+.4f} [{row['lower']:+.4f}, {row['upper']:+.4f}]"
            f"   [{low:+.4f}, {high:+.4f}]  {row['seconds']:5.1f}"
        )
    broken = [row for row in rows if row["lower"] < MUST and row["against"] == "logistic"]
    sys.exit(
        f"worse than {MUST} against logistic regression: {', '.join(row['data'] for row in broken)}"
        if broken
        else 0
    )


if __name__ == "__main__":
    main()
