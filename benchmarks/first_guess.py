"""`penstock init` on tables of installable packages: types, target, entity, id and time, protected columns,
and two leaks planted in each. What `init` looks at was widened after each ten.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from guessed_tables import NINTH, SEEN, Truth

from penstock.client.guess.decide import Answers, Guess
from penstock.client.guess.infer import first
from penstock.client.guess.table import read_table
from penstock.contracts.load import read

MOST_ROWS = 5_000


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
    """Guesses by the data alone, and with the target named."""
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
    close = {one.column.name for one in guess.fields if one.name in guess.target.close}
    answers = {truth.target, truth.twin or truth.target}
    protected = {one.column.name for one in told.fields if one.protected}
    return {
        "table": truth.name,
        "types": len(right) / len(wanted),
        "mistyped": sorted(wanted.keys() - set(right)),
        "target": guess.target.field.column.name in answers and guess.target.task == truth.task,
        "offered": bool(answers & {guess.target.field.column.name, *close}),
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
        "offered": sum(bool(table["offered"]) for table in tables),
        "named": sum(bool(table["named"]) for table in tables),
        "protected": sum(bool(table["protected"]) for table in tables),
        "leaks": sum(len(table["leaks"]) for table in tables) / 2,  # type: ignore[arg-type]
        "tables": tables,
    }


if __name__ == "__main__":
    found = {"known": figures(SEEN), "held_out": figures(NINTH)}
    print(json.dumps(found, indent=None if "--json" in sys.argv else 1))
