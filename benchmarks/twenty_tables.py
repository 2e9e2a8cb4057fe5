"""A file's defaults on twenty tables, against those of LightGBM, scikit-learn's gradient boosting and
CatBoost: `python benchmarks/twenty_tables.py`.

Nothing is tuned: the pipeline file names fields and target alone, so that family, steps and all else
are chosen by the rows. It goes the trainer's way; the answers are the graph's. All learn from the
training rows alone; ours looks at the validation rows as the trainer does. Errors: 1 − AUROC of two
classes, log loss of more, root mean squared error of values, as TabArena has them (Erickson et al.
2025). Tables and CatBoost are brought into .cache, not into the environment. Results are appended to
a file, and what stands there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error
from table_sources import ROOT, SOURCES, Table, packages, read, splits

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import BY_ROWS, planned
from penstock.modelkit.build import build
from penstock.modelkit.model import run
from penstock.modelkit.rows import read as read_rows

Parts = dict[str, np.ndarray[Any, Any]]
Answers = np.ndarray[Any, Any]
RESULTS = ROOT / ".cache" / "twenty_tables.jsonl"
OTHERS = ("lightgbm", "sklearn", "catboost")


def file(table: Table, family: str) -> Pipeline:
    kinds = {"regression": "number", "binary": "boolean", "multiclass": "category"}
    fields = {
        name: {"type": "number" if column.dtype == np.float64 else "category"}
        for name, column in table.features.items()
    }
    source = {"entity": "row", "id": "id", "timestamp": "at"}
    return Pipeline.model_validate(
        {
            "version": 1,
            "defaults": BY_ROWS,
            "pipeline": "table",
            "entities": {"row": {"key": "row_id"}},
            "sources": {"rows": {**source, "fields": {**fields, "y": {"type": kinds[table.source.task]}}}},
            "targets": {"y": {"from": "rows.y", "type": table.source.task}},
            **({"model": {"type": family}} if family else {}),
        }
    )


def ours(table: Table, parts: Parts, family: str) -> tuple[Answers, str]:
    with tempfile.TemporaryDirectory() as folder:
        for part, rows in parts.items():
            columns = {
                name: pa.array(column.to_numpy()[rows], from_pandas=True)
                for name, column in table.features.items()
            }
            told = {"penstock": json.dumps({"classes": table.classes, "target": "y"})}
            data = pa.table({**columns, "__label": table.labels[rows]}).replace_schema_metadata(told)
            pq.write_table(data, Path(folder) / f"{part}.parquet")
        pipeline = planned(file(table, family), len(parts["train"])).pipeline
        built = build(pipeline, Path(folder) / "train.parquet", Path(folder) / "validation.parquet")
        answers = run(built.model, read_rows(Path(folder) / "audit.parquet", built.signature, pipeline))
    return answers["value" if "value" in answers else "probabilities"], built.description.kind


def frames(table: Table, parts: Parts) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and audit rows; categories are those of training."""
    train, audit = (table.features.iloc[parts[part]].copy() for part in ("train", "audit"))
    for name in train.columns[train.dtypes != np.float64]:
        known = pd.CategoricalDtype(sorted(train[name].dropna().unique()))
        train[name], audit[name] = train[name].astype(known), audit[name].astype(known)
    return train, audit


def theirs(name: str, table: Table, parts: Parts) -> Answers:
    train, audit = frames(table, parts)
    kind = "Regressor" if table.source.task == "regression" else "Classifier"
    if name == "lightgbm":
        import lightgbm

        model = getattr(lightgbm, f"LGBM{kind}")(random_state=0, verbose=-1, n_jobs=1)
    elif name == "sklearn":
        from sklearn import ensemble

        made = getattr(ensemble, f"HistGradientBoosting{kind}")
        model = made(categorical_features="from_dtype", random_state=0)
    else:
        packages()
        import catboost

        named = list(train.columns[train.dtypes != np.float64])
        train, audit = (
            frame.assign(**{column: frame[column].astype(str) for column in named})
            for frame in (train, audit)
        )
        made = getattr(catboost, f"CatBoost{kind}")
        quiet = {"verbose": 0, "allow_writing_files": False}
        model = made(cat_features=named, random_seed=0, thread_count=1, **quiet)
    model.fit(train, table.labels[parts["train"]])
    found: Answers = model.predict(audit) if kind == "Regressor" else model.predict_proba(audit)
    return found


def error(table: Table, truth: Answers, answers: Answers) -> float:
    if table.source.task == "regression":
        return float(root_mean_squared_error(truth, answers.ravel()))
    if table.source.task == "binary":
        return 1 - float(roc_auc_score(truth, answers[:, 1]))
    return float(log_loss(truth, answers.astype(np.float64), labels=range(len(table.classes))))


def measure(results: Path, models: list[str], only: str | None, count: int) -> None:
    """Appends a line for each table, split and model that the file has none of."""
    done = {(row["table"], row["split"], row["model"]) for row in rows_of(results)}
    results.parent.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        wanted = [(split, model) for split in range(count) for model in models]
        wanted = [pair for pair in wanted if (source.name, *pair) not in done]
        if not wanted or only not in (None, source.name):
            continue
        table = read(source)
        for split, model in wanted:
            parts, began = splits(table, count)[split], time.process_time()
            name, _, family = model.partition(":")
            if name == "penstock":
                answers, told = ours(table, parts, family)
            else:
                answers, told = theirs(name, table, parts), name
            row = {
                "table": source.name,
                "split": split,
                "model": model,
                "rows": len(parts["train"]),
                "error": error(table, table.labels[parts["audit"]], answers),
                "cpu_s": round(time.process_time() - began, 2),
                "told": told,
            }
            print(json.dumps(row), file=sys.stderr)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")


def rows_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def compare(rows: list[dict[str, Any]], mine: str, other: str) -> dict[str, Any]:
    """Geometric mean over tables of the ratio of errors, each the mean of its splits; interval by
    bootstrap over tables.
    """
    errors: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        errors[row["table"], row["split"]][row["model"]] = row["error"]
    logs: dict[str, list[float]] = defaultdict(list)
    for (table, _), found in errors.items():
        if mine in found and other in found:
            logs[table].append(float(np.log(found[mine] / found[other])))
    means = np.array([np.mean(each) for each in logs.values()])
    random = np.random.default_rng(0)
    drawn = random.choice(means, (10_000, len(means))).mean(axis=1) if len(means) else np.array([np.nan])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "against": other,
        "tables": len(means),
        "ratio": float(np.exp(means.mean())) if len(means) else float("nan"),
        "lower": float(np.exp(low)),
        "upper": float(np.exp(high)),
        "by_table": {table: float(np.exp(np.mean(each))) for table, each in logs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--models", default="penstock,lightgbm,sklearn,catboost")
    parser.add_argument("--only", help="one table")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    models = chosen.models.split(",")
    measure(chosen.results, models, chosen.only, chosen.splits)
    rows = rows_of(chosen.results)
    mine = models[0]
    found = [compare(rows, mine, other) for other in OTHERS]
    if chosen.json:
        print(json.dumps(found))
        return
    for one in found:
        print(
            f"{mine} against {one['against']:<9} {one['tables']} tables  {one['ratio']:.3f}"
            f" [{one['lower']:.3f}, {one['upper']:.3f}]"
        )
        print("  " + "  ".join(f"{table} {ratio:.3f}" for table, ratio in sorted(one["by_table"].items())))


if __name__ == "__main__":
    main()
