"""Models of `penstock init`'s files, nothing changed, against the better of logistic or ridge regression
and gradient boosting: `python benchmarks/first_models.py`.

The tables are the second ten of `guessed_tables.py`, named before anything was measured on them, with no
leak planted; their target is named, as a person does who is asked. Each of five splits (60 % train,
10 % validation, 30 % audit) goes the trainer's way, and the answers are the graph's. The baselines are
scikit-learn's with their defaults, on the same inputs of the same training rows, numbers scaled and
categories one by one for the linear one. AUROC, accuracy or R² on the audit rows, paired by split.
Results are appended to a file, and what stands there is not measured again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from guessed_tables import SECOND, Truth
from quality import splits
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from table_sources import ROOT
from twenty_tables import rows_of

from penstock.client.guess.decide import Answers, Guess
from penstock.client.guess.infer import first
from penstock.client.guess.table import read_table
from penstock.contracts.load import read as read_pipeline
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import planned
from penstock.modelkit.build import build
from penstock.modelkit.model import run
from penstock.modelkit.rows import read as read_rows

SPLITS = 5
RESULTS = ROOT / ".cache" / "first_models.jsonl"
BASELINES = ("linear", "boosting")

Parts = dict[str, np.ndarray[Any, Any]]
Array = np.ndarray[Any, Any]


def guessed(truth: Truth, frame: pd.DataFrame) -> tuple[Guess, Pipeline]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{truth.name}.csv"
        frame.to_csv(path, index=False)
        found = first(read_table(path), Answers(target=truth.target))
    return found.guess, read_pipeline(found.text)


def inputs_of(guess: Guess, pipeline: Pipeline, frame: pd.DataFrame) -> pd.DataFrame:
    """The pipeline's features: numbers as float64, all else as text or None."""
    columns, found = {one.name: one.column.name for one in guess.fields}, {}
    for name, feature in pipeline.resolved_features().items():
        column = frame[columns[feature.source_field.partition(".")[2]]]
        if pipeline.field(feature.source_field).type == "number":
            found[name] = column.astype(np.float64)
        else:
            texts = column.astype(str).astype(object)
            if pipeline.field(feature.source_field).type == "boolean":
                texts = texts.str.lower()
            found[name] = texts.where(column.notna(), None)
    return pd.DataFrame(found)


def labels_of(guess: Guess, frame: pd.DataFrame) -> tuple[Array, list[str]]:
    column = frame[guess.target.field.column.name]
    if guess.target.task == "regression":
        return column.to_numpy(np.float64), []
    if guess.target.task == "multiclass":
        codes, values = pd.factorize(column.astype(str), sort=True)
        return codes.astype(np.int64), list(values)
    said = column.astype(str).str.lower() == str(guess.target.positive).lower()
    return said.to_numpy(np.int64), ["false", "true"]


def score(task: str, truth: Array, answers: Array) -> float:
    if task == "regression":
        return float(r2_score(truth, answers.ravel()))
    if task == "binary":
        return float(roc_auc_score(truth, answers[:, 1]))
    return float(accuracy_score(truth, answers.argmax(axis=1)))


def ours(pipeline: Pipeline, inputs: pd.DataFrame, labels: Array, classes: list[str], parts: Parts) -> Array:
    with tempfile.TemporaryDirectory() as folder:
        for part, rows in parts.items():
            columns = {name: pa.array(inputs[name].to_numpy()[rows], from_pandas=True) for name in inputs}
            told = {"penstock": json.dumps({"classes": classes})}
            data = pa.table({**columns, "__label": labels[rows]}).replace_schema_metadata(told)
            pq.write_table(data, Path(folder) / f"{part}.parquet")
        chosen = planned(pipeline, len(parts["train"])).pipeline
        built = build(chosen, Path(folder) / "train.parquet", Path(folder) / "validation.parquet")
        answers = run(built.model, read_rows(Path(folder) / "audit.parquet", built.signature, chosen))
    found: Array = answers["value" if "value" in answers else "probabilities"]
    return found


def theirs(name: str, task: str, inputs: pd.DataFrame, labels: Array, parts: Parts) -> Array:
    numbers = [column for column in inputs if inputs[column].dtype == np.float64]
    named = [column for column in inputs if column not in numbers]
    model: Any
    if name == "boosting":
        frame = inputs.assign(**{column: inputs[column].astype("category") for column in named})
        few = {column for column in named if frame[column].nunique() <= 255}
        frame = frame.drop(columns=[column for column in named if column not in few])
        made = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
        model = made(categorical_features="from_dtype", random_state=0)
    else:
        frame = inputs.where(inputs.notna(), np.nan)
        scaled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
        each = make_pipeline(
            SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(handle_unknown="ignore")
        )
        linear = Ridge() if task == "regression" else LogisticRegression(max_iter=2000)
        model = make_pipeline(make_column_transformer((scaled, numbers), (each, named)), linear)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(frame.iloc[parts["train"]], labels[parts["train"]])
        audit = frame.iloc[parts["audit"]]
        found: Array = model.predict(audit) if task == "regression" else model.predict_proba(audit)
    return found


def measure(results: Path) -> None:
    """Appends a line for each table, split and model that the file has none of."""
    done = {(row["table"], row["split"]) for row in rows_of(results)}
    results.parent.mkdir(parents=True, exist_ok=True)
    for truth in SECOND:
        if all((truth.name, split) in done for split in range(SPLITS)):
            continue
        frame = truth.load().dropna(subset=truth.target).reset_index(drop=True)
        guess, pipeline = guessed(truth, frame)
        inputs, (labels, classes) = inputs_of(guess, pipeline, frame), labels_of(guess, frame)
        task = guess.target.task
        for split, parts in splits(len(frame), SPLITS):
            if (truth.name, split) in done:
                continue
            answers = {"penstock": ours(pipeline, inputs, labels, classes, parts)}
            answers |= {name: theirs(name, task, inputs, labels, parts) for name in BASELINES}
            scores = {name: score(task, labels[parts["audit"]], said) for name, said in answers.items()}
            row = {"table": truth.name, "split": split, "task": task, "rows": len(frame), **scores}
            print(json.dumps(row), file=sys.stderr)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")


def figures(results: Path) -> dict[str, Any]:
    """Per table the mean over splits of what the model is better than the baseline that is the better on
    their mean.
    """
    by_table: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(results):
        by_table[row["table"]].append(row)
    tables = []
    for name, rows in by_table.items():
        means = {of: float(np.mean([row[of] for row in rows])) for of in ("penstock", *BASELINES)}
        against = max(BASELINES, key=lambda of: means[of])
        ahead = [row["penstock"] - row[against] for row in rows]
        tables.append(
            {
                "table": name,
                "rows": rows[0]["rows"],
                "task": rows[0]["task"],
                "splits": len(rows),
                **means,
                "against": against,
                "difference": float(np.mean(ahead)),
                "worst_split": min(ahead),
            }
        )
    differences = [table["difference"] for table in tables]
    return {"mean": float(np.mean(differences)), "worst": min(differences), "tables": tables}


if __name__ == "__main__":
    measure(RESULTS)
    print(json.dumps(figures(RESULTS), indent=None if "--json" in sys.argv else 1))
