"""Training on eight times the memory that there is: `python benchmarks/beyond_memory.py`.

A network over twenty numbers in pieces. One process has LIMIT bytes by its control group, in which the
pages of files count too (without the right to make one: RLIMIT_DATA, in which they do not), and rows
that take eight times as much once they are prepared. Another has no limit, and the same rows in memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.contracts.pipeline import Pipeline

LIMIT, TIMES, FIELDS, WRITTEN = 600_000_000, 8, 20, 65_536
EPOCHS, BATCH = 1, 1024
FEATURES = [f"f{number:02}" for number in range(FIELDS)]
GROUPS = Path("/sys/fs/cgroup")
PIPELINE = Pipeline.model_validate(
    {
        "version": 1,
        "pipeline": "meters",
        "entities": {"meter": {"key": "meter"}},
        "sources": {
            "readings": {
                "entity": "meter",
                "id": "id",
                "timestamp": "time",
                "fields": {
                    **{name: {"type": "number"} for name in FEATURES},
                    "failed": {"type": "boolean"},
                },
            }
        },
        "features": {name: {"from": f"readings.{name}"} for name in FEATURES},
        "targets": {"failed": {"from": "readings.failed", "type": "binary", "positive": True}},
        "model": {"type": "mlp", "hidden": [64]},
        "trainer": {"epochs": EPOCHS, "batch_size": BATCH, "early_stopping": None},
    }
)
COLUMNS = FIELDS * 33  # float32, of a prepared row: each number, and 32 pieces


def write_part(path: Path, rows: int, seed: int) -> None:
    """Rows in the order of their label, as a file that is sorted by what is learned, written as the
    feature store does.
    """
    from penstock_feature_store.training.parts import Part

    generator = np.random.default_rng(seed)
    schema = pa.schema([*((name, pa.float64()) for name in FEATURES), ("__label", pa.int64())])
    told = {"penstock": json.dumps({"classes": ["false", "true"], "target": "failed"})}
    part = Part(path, schema.with_metadata(told))
    for at in range(0, rows, WRITTEN):
        count = min(WRITTEN, rows - at)
        label = (np.arange(at, at + count) >= rows / 2).astype(np.int64)
        values = generator.normal(size=(count, FIELDS)) + 0.3 * label[:, None]
        part.add(pa.table([pa.array(column) for column in (*values.T, label)], schema=part.schema))
    part.close()


def trained(folder: Path, whole: bool) -> dict[str, Any]:
    """Trains in this process. `whole`: in memory, with the order of epochs that the other has."""
    from penstock.modelkit import build, stored

    peak = _Peak()
    if whole:
        stored.HELD = sys.maxsize
    epochs: list[Any] = []
    began = time.perf_counter()
    made = build.build(
        PIPELINE,
        folder / "train.parquet",
        folder / "validation.parquet",
        scratch=None if whole else folder / "inputs",
        on_epoch=epochs.append,
    )
    return {
        "metrics": made.metrics,
        "weights": made.weights,
        "rows_s": float(np.median([epoch.rows / epoch.took_s for epoch in epochs])),
        "seconds": time.perf_counter() - began,
        "anonymous": peak.seen,
    }


class _Peak(threading.Thread):
    """Most anonymous memory of this process, looked at as it goes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen = 0
        self.start()

    def run(self) -> None:
        while True:
            told = Path("/proc/self/status").read_text().split("RssAnon:")[1]
            self.seen = max(self.seen, int(told.split()[0]) * 1024)
            time.sleep(0.02)


@contextmanager
def group(limit: int) -> Iterator[Path | None]:
    """A control group with that limit of memory; None where this user may make none."""
    first = GROUPS / "memory"
    base, bound = (first, "memory.limit_in_bytes") if first.is_dir() else (GROUPS, "memory.max")
    made = base / f"penstock-beyond-{os.getpid()}"
    try:
        made.mkdir()
        (made / bound).write_text(str(limit))
    except OSError:
        yield None
        return
    try:
        yield made
    finally:
        with suppress(OSError):
            made.rmdir()


def in_process(folder: Path, whole: bool, limit: int | None = None) -> dict[str, Any]:
    """Result of `trained` in a process of its own, within the limit."""
    order = [sys.executable, "-m", "benchmarks.beyond_memory", str(folder), "whole" if whole else "mapped"]

    def run(prepare: Any = None) -> dict[str, Any]:
        said = subprocess.run(order, preexec_fn=prepare, stdout=subprocess.PIPE, check=True).stdout
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found

    if limit is None:
        return run()
    with group(limit) as within:
        if within is None:
            return run(lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))) | {
                "by": "RLIMIT_DATA"
            }
        return run(lambda: (within / "cgroup.procs").write_text(str(os.getpid()))) | {
            "by": "its control group"
        }


def main() -> None:
    rows = TIMES * LIMIT // (COLUMNS * 4)
    with tempfile.TemporaryDirectory(prefix="penstock-beyond-") as name:
        folder = Path(name)
        write_part(folder / "train.parquet", rows, 1)
        write_part(folder / "validation.parquet", rows // 20, 2)
        mapped = in_process(folder, whole=False, limit=LIMIT)
        whole = in_process(folder, whole=True)
    share = mapped["rows_s"] / whole["rows_s"]
    told = {"rows": rows, "bytes": rows * COLUMNS * 4, "limit": LIMIT, "by": mapped.pop("by"), "share": share}
    print(json.dumps(told | {"mapped": mapped, "whole": whole}))


if __name__ == "__main__":
    if len(sys.argv) == 3:  # FOLDER, whole or mapped; `make bench` says `--json`
        print(json.dumps(trained(Path(sys.argv[1]), sys.argv[2] == "whole")))
    else:
        main()
