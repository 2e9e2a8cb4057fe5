"""Costs of making a training set: `python benchmarks/training_sets.py`, against DuckDB's own ASOF
join of the same files.

A million labels with twenty numbers each, of another source, 50,000 entities. In turn, each in a
process of its own: ours reads the lake, looks for doubled events, joins, sorts, divides into parts,
writes and fingerprints them; DuckDB alone joins and writes.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names
from penstock_feature_store.lake.batches import source_schema
from penstock_feature_store.training.join import Order, build

ROWS, FIELDS, FILES, REPEATS = 1_000_000, 20, 4, 3
DAY_US = 86_400_000_000
FEATURES = [f"f{number:02}" for number in range(FIELDS)]
SOURCE = {"entity": "meter", "id": "id", "timestamp": "time"}
PIPELINE = Pipeline.model_validate(
    {
        "version": 1,
        "pipeline": "meters",
        "entities": {"meter": {"key": "meter"}},
        "sources": {
            "readings": {**SOURCE, "fields": {name: {"type": "number"} for name in FEATURES}},
            "faults": {**SOURCE, "fields": {"failed": {"type": "boolean"}}},
        },
        "features": {name: {"from": f"readings.{name}"} for name in FEATURES},
        "targets": {"failed": {"from": "faults.failed", "type": "binary", "positive": True}},
        "model": {"type": "linear"},
    }
)


def write_lake(source: str, folder: Path, seed: int) -> None:
    """Files as the feature store leaves them, of events that came in no order."""
    generator, n = np.random.default_rng(seed), ROWS
    folder.mkdir(parents=True)
    moments = pa.array(1_700_000_000_000_000 + generator.integers(0, 200 * DAY_US, n))
    columns = {
        names.ID: pa.array([f"e{number:08d}" for number in range(n)]),
        names.ENTITY: pa.array(np.char.add("m", generator.integers(0, n // 20, n).astype(str))),
        names.TIME: moments,
        names.INGESTED: moments,
        names.PARTITION: pa.array(np.zeros(n, np.int32)),
        names.OFFSET: pa.array(np.arange(n)),
        names.RECORD: pa.array(np.arange(n)),
        names.TRACE: pa.nulls(n, pa.string()),
        "failed": pa.array(generator.random(n) < 0.2),
        **{name: pa.array(generator.normal(size=n)) for name in FEATURES},
    }
    schema = source_schema(PIPELINE.sources[source])
    table = pa.table({field.name: columns[field.name].cast(field.type) for field in schema})
    for number in range(FILES):
        piece = table.slice(number * n // FILES, n // FILES)
        pq.write_table(piece, folder / f"{number:04}.parquet", compression="zstd", compression_level=1)


def ours(folder: Path) -> None:
    order = Order(
        id="set",
        pipeline=PIPELINE,
        folder=folder,
        artifacts=(folder / "artifacts").as_uri(),
        created_at=datetime.now(UTC),
    )
    assert sum(build(order).rows.values()) == ROWS


def duckdb_alone(folder: Path) -> None:
    columns = ", ".join(f"readings.{name}" for name in FEATURES)
    labels, readings = (
        f"read_parquet('{folder}/lake/{source}/*.parquet')" for source in ("faults", "readings")
    )
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar=false")
        database.execute(
            f"""COPY (SELECT labels.__entity, labels.__id, labels.__time, {columns}, failed
            FROM {labels} AS labels ASOF LEFT JOIN {readings} AS readings
            ON labels.__entity = readings.__entity AND labels.__time >= readings.__time)
            TO '{folder}/joined.parquet' (FORMAT parquet, COMPRESSION zstd)"""
        )


def costs(of: str, folder: str) -> tuple[float, float, float]:
    """Seconds, processor seconds, and the most memory of this process, in MB."""
    began, processor = time.perf_counter(), time.process_time()
    {"ours": ours, "duckdb": duckdb_alone}[of](Path(folder))
    took, spent = time.perf_counter() - began, time.process_time() - processor
    return took, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-sets-") as folder:
        for seed, source in enumerate(PIPELINE.sources):
            write_lake(source, Path(folder) / "lake" / source, seed)
        runs: dict[str, list[tuple[float, float, float]]] = {"ours": [], "duckdb": []}
        for _ in range(REPEATS):
            for of, seen in runs.items():
                with multiprocessing.get_context("spawn").Pool(1) as alone:
                    seen.append(alone.apply(costs, (of, folder)))
    for of, seen in runs.items():
        seconds, processor, memory = (statistics.median(column) for column in zip(*seen, strict=True))
        found[of] = {"seconds": seconds, "processor_s": processor, "peak_mb": memory}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
