"""Quality of what studies pick, on rows that no trial has seen: `python benchmarks/picks.py`.

`pick`: a study of the default space with `--trials` trials, on seeded splits of an example, against
the file's own values; AUROC on the audit part. `asha`: as many random trials with and without the
pruner; processor seconds of all trials, and the pick's log loss on the audit part. Every study goes
the tuner's own way, folds included, and the pick is fitted as the run that follows it would. What a
study gave stays in a file of lines, picks.jsonl beside this one, with the day and the revision, and
none is run twice: all of them take hours, so a run that was broken off goes on where it was. A change
to what is searched, or how a trial is trained, makes its lines worthless: delete them then.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import quality
from sklearn.metrics import log_loss, roc_auc_score

from penstock.contracts.load import read_data
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import planned
from penstock.modelkit.build import build
from penstock.modelkit.model import run
from penstock.modelkit.rows import read
from penstock_tuner.driver import Driver
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.search import space_of
from penstock_tuner.trials.workbench import Workbench

MUST, MUST_AUROC = -0.002, 0.925
"""AUROC of the pick less that of the file's own values, lower bound; of adult-income's picks."""
MUST_TIME, MUST_LOSS = 0.6, 0.005
"""Processor seconds with ASHA over those without; the pick's audit log loss above the other's."""
SPLITS = {"credit-risk": 20, "adult-income": 5}
KEPT = Path(__file__).with_suffix(".jsonl")
ASHA = {"type": "asha"}

Figures = dict[str, Any]


def study(spec: Mapping[str, Any], parts: Path, at_once: int) -> tuple[dict[str, Any], float]:
    """Overrides of the trial that a study chooses, and processor seconds of all its trials."""
    pipeline = Pipeline.model_validate(spec)
    asked: dict[int, dict[str, Any]] = {}
    spent: list[float] = []

    def tell(message: Mapping[str, Any]) -> None:
        if trial := message.get("started"):
            asked[trial["number"]] = trial["overrides"]
        elif trial := message.get("ended"):
            spent.append(trial["processor_s"])

    with tempfile.TemporaryDirectory() as scratch:
        work = Workbench(folder=Path(scratch, "work"))
        copies = [Path(shutil.copy(parts / f"{part}.parquet", scratch)) for part in ("train", "validation")]
        pool = ProcessPool(work, at_once=at_once, families=tuple(space_of(pipeline).families.types))
        try:
            work.fill(*copies, pipeline)
            rows, looks = _rows(parts), len(work.folds) or 1
            found = Driver(spec, rows, (), pool, tell, began=time.monotonic(), looks=looks).run()
        finally:
            pool.close()
    return asked[found["best"]], sum(spent)


def judged(spec: Mapping[str, Any], overrides: Mapping[str, Any], parts: Path) -> dict[str, float]:
    """AUROC and log loss on the audit part of a run with these overrides."""
    pipeline = planned(overridden(spec, overrides), _rows(parts)).pipeline
    built = build(pipeline, parts / "train.parquet", parts / "validation.parquet")
    rows = read(parts / "audit.parquet", built.signature, pipeline)
    said = run(built.model, rows)["probabilities"][:, 1].astype(float)
    return {"auroc": float(roc_auc_score(rows.labels, said)), "log_loss": float(log_loss(rows.labels, said))}


def _rows(parts: Path) -> int:
    return int(pq.read_metadata(parts / "train.parquet").num_rows)


# -- figures -----------------------------------------------------------------------------------------


def run_split(kind: str, example: str, data: quality.Data, seed: int, chosen: Any) -> Figures:
    """Runs one study, or with `asha` two of the same trials, on one split."""
    text = (quality.EXAMPLES / example / "pipeline.yaml").read_text()
    spec = {**read_data(text)}
    spec["training"] = {**spec.get("training", {}), "seed": seed}
    budget = {"budget": {"trials": chosen.trials}, "seed": seed, "evaluate": {"folds": chosen.folds}}
    split = dict(quality.splits(len(data.features), seed + 1))[seed]
    with tempfile.TemporaryDirectory() as scratch:
        parts = Path(scratch)
        quality.write(data, split, parts)
        if kind == "pick":
            overrides, spent = study({**spec, "tuner": budget}, parts, chosen.at_once)
            own, found = (judged(spec, values, parts) for values in ({}, overrides))
            return {"own": own, "found": found, "processor_s": spent, "overrides": overrides}
        sides = {}
        for name, pruner in (("whole", {}), ("asha", {"pruner": ASHA})):
            section = {"type": "random", **budget, **pruner}
            overrides, spent = study({**spec, "tuner": section}, parts, chosen.at_once)
            sides[name] = {**judged(spec, overrides, parts), "processor_s": spent}
        return sides


def picked(example: str, rows: Sequence[Figures], trials: int) -> Figures:
    found, own = (np.array([row[side]["auroc"] for row in rows]) for side in ("found", "own"))
    lower, upper = quality.interval(found - own, 0.0)
    enough = len(rows) >= SPLITS[example]  # an interval of a few splits may lie anywhere
    kept = enough and lower >= MUST and (example != "adult-income" or found.mean() >= MUST_AUROC)
    return {
        "figure": "pick",
        "data": example,
        "splits": len(rows),
        "of": SPLITS[example],
        "trials": trials,
        "auroc": float(found.mean()),
        "own": float(own.mean()),
        "difference": float((found - own).mean()),
        "lower": lower,
        "upper": upper,
        "stayed": sum(not row["overrides"] for row in rows),
        "processor_s": float(np.mean([row["processor_s"] for row in rows])),
        "kept": bool(kept),
    }


def saved(example: str, rows: Sequence[Figures], trials: int) -> Figures:
    spent = {side: sum(row[side]["processor_s"] for row in rows) for side in ("asha", "whole")}
    loss = float(np.mean([row["asha"]["log_loss"] - row["whole"]["log_loss"] for row in rows]))
    share = spent["asha"] / spent["whole"]
    return {
        "figure": "asha",
        "data": example,
        "splits": len(rows),
        "of": SPLITS[example],
        "trials": trials,
        "share": share,
        "loss": loss,
        **{f"{side}_s": seconds for side, seconds in spent.items()},
        "kept": bool(share <= MUST_TIME and loss <= MUST_LOSS),
    }


def now() -> Figures:
    """Day and revision of what is measured now."""
    told = subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"],
        cwd=KEPT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "revision": told.stdout.strip()}


def kept_rows(path: Path) -> dict[str, Figures]:
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(map(json.loads, lines))


def measured(chosen: argparse.Namespace) -> Iterator[Figures]:
    """Yields each figure, after the studies that it wants and that the file does not have."""
    load = {"credit-risk": quality.credit_risk, "adult-income": quality.adult_income}
    for kind in chosen.figures:
        for example in chosen.data:
            data, rows = load[example](), []
            for seed in range(chosen.splits or SPLITS[example]):
                name = (
                    f"{kind} {example} {chosen.trials} trials, folds {chosen.folds or 'usual'}, split {seed}"
                )
                if name not in (known := kept_rows(chosen.kept)) and not chosen.only_kept:
                    known[name] = run_split(kind, example, data, seed, chosen) | now()
                    with chosen.kept.open("a") as file:
                        file.write(json.dumps([name, known[name]]) + "\n")
                    print(name, file=sys.stderr)
                if name in known:
                    rows.append(known[name])
            if len(rows) > 1:
                yield {"pick": picked, "asha": saved}[kind](example, rows, chosen.trials)
            else:
                print(f"{kind} on {example}: two splits or more are wanted", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="file of what studies gave")
    parser.add_argument("--figures", nargs="*", choices=("pick", "asha"), default=["pick", "asha"])
    parser.add_argument("--data", nargs="*", choices=tuple(SPLITS), default=list(SPLITS))
    parser.add_argument("--splits", type=int, help="instead of 20 and 5")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--folds", type=int, help="of each trial, instead of the tuner's choice by rows")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="no exit code for a miss")
    parser.add_argument("--only-kept", action="store_true", help="run nothing, judge what the file has")
    chosen = parser.parse_args()
    found = list(measured(chosen))
    print(json.dumps(found))
    sys.exit(0 if chosen.json or all(row["kept"] for row in found) else 1)


if __name__ == "__main__":
    main()
