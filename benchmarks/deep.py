"""`wide_deep` and `ft_transformer` on census income against pytorch-widedeep's: `python benchmarks/deep.py`.

Three of quality.py's splits. Sizes, epochs, batches, learning rate and patience of both are those
that a pipeline file without them gets for so many rows; ours has its own schedule and encodings,
theirs (widedeep.py) its own preprocessing and loop. pytorch-widedeep is installed for this alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import quality
from sklearn.metrics import roc_auc_score

from penstock.contracts.load import read
from penstock.contracts.pipeline import FtTransformer, ModelSpec, Pipeline, Trainer
from penstock.contracts.planning import BY_ROWS, planned
from penstock.modelkit.model import run

SEEDS = 3
RUN = (Path(sys.executable).parent / "uv", "run", "--quiet", "--isolated", "--no-project", "--python", "3.11")
REFERENCE = "pytorch-widedeep==1.7.0"
EXAMPLE = quality.EXAMPLES / "adult-income" / "pipeline-wide-deep.yaml"


def models() -> dict[str, ModelSpec]:
    return {
        "wide_deep": read(EXAMPLE.read_text(), str(EXAMPLE)).model,
        "ft_transformer": FtTransformer(type="ft_transformer", d=64, blocks=2),
    }


def measure(name: str, model: ModelSpec, seeds: int) -> dict[str, Any]:
    census = quality.adult_income()
    plain = census.declared.model_copy(update={"model": model, "trainer": Trainer(), "defaults": BY_ROWS})
    declared = planned(plain, round(quality.TRAIN * len(census.features))).pipeline
    data = replace(census, declared=declared)
    found: dict[str, list[float]] = {key: [] for key in ("ours", "theirs", "parity", "s", "their_s")}
    for seed, parts in quality.splits(len(data.features), seeds):
        truth = data.positive[parts["audit"]]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            built, rows = quality.trained(data, parts, seed, Path(folder))
            found["s"].append(time.perf_counter() - began)
            found["ours"].append(roc_auc_score(truth, run(built.model, rows)["probabilities"][:, 1]))
            began = time.perf_counter()
            found["theirs"].append(roc_auc_score(truth, theirs(declared, seed, Path(folder))))
            found["their_s"].append(time.perf_counter() - began)
        found["parity"].append(built.parity)
        told = "  ".join(f"{key} {values[-1]:.4g}" for key, values in found.items())
        print(f"  {name} seed {seed}  {told}", file=sys.stderr)
    return {
        "family": name,
        "seeds": seeds,
        "auroc": float(np.mean(found["ours"])),
        "its_auroc": float(np.mean(found["theirs"])),
        "difference": float(np.mean(found["ours"]) - np.mean(found["theirs"])),
        "parity": max(found["parity"]),
        "seconds": float(np.mean(found["s"])),
    }


def theirs(declared: Pipeline, seed: int, folder: Path) -> np.ndarray[Any, Any]:
    """The reference's probabilities of the audit part; the first call installs it."""
    plan = {
        "model": declared.model.model_dump(mode="json"),
        "trainer": declared.trainer.model_dump(mode="json"),
        "seed": seed,
    }
    program = Path(__file__).with_name("widedeep.py")
    subprocess.run(
        [*RUN, "--with", REFERENCE, "python", program, folder, json.dumps(plan)],
        check=True,
        stdout=sys.stderr,
    )
    return np.load(folder / "theirs.npy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("wide_deep", "ft_transformer"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = [
        measure(name, model, chosen.seeds) for name, model in models().items() if chosen.only in (None, name)
    ]
    if chosen.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" if key != "family" else value for key, value in row.items()))


if __name__ == "__main__":
    main()
