"""Training on eight times the memory that there is."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.process("unhurried")

CHILD = Path(__file__).with_name("beyond_memory.py")
FIELDS, COLUMNS = 20, 33  # float32 a field, each number and its pieces, when prepared
LIMIT, TIMES = 64_000_000, 8
# What is freed is the system's again at once: else it is chance what is left of the limit.
ALLOCATORS = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}


def write(path: Path, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = (np.arange(rows) >= rows // 2).astype(np.int64)  # sorted by what is learned
    columns = {f"x{number}": random.normal(size=rows) + 0.3 * label for number in range(FIELDS)}
    table = pa.table({**columns, "__label": label})
    told = {"penstock": json.dumps({"classes": ["false", "true"], "target": "y"})}
    pq.write_table(table.replace_schema_metadata(told), path, row_group_size=10_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets")
    write(made / "train.parquet", TIMES * LIMIT // (4 * FIELDS * COLUMNS), 1)
    write(made / "validation.parquet", 5000, 2)
    return made


def test_a_set_of_eight_times_the_limit_gives_the_figures_of_the_same_set_in_memory(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, CHILD, folder, str(LIMIT)],
        env={**os.environ, **ALLOCATORS},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20)),  # a thread's
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    beyond, whole = map(json.loads, done.stdout.splitlines()[-2:])
    assert beyond == whole
    assert beyond["sampled"] == 6_250
    assert beyond["metrics"]["auroc"] > 0.8
