"""Two trainings in a process of their own, `beyond_memory.py FOLDER BYTES`: the first may take no more
than so many beside what is loaded, and its rows stay in files; the second learns from what is in memory,
as much as there is. Prints what came of each.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from conftest import World
from penstock.modelkit import features, order, stored
from penstock.modelkit.build import Built, build

FIELDS = 20


def trained(world: World, name: str, *, files: bool) -> Built:
    pipeline = world.pipeline(
        {f"x{number}": "number" for number in range(FIELDS)},
        {f"x{number}": {} for number in range(FIELDS)},
        model={"type": "mlp", "hidden": [16]},
        trainer={"epochs": 1, "batch_size": 512, "early_stopping": None},
    )
    scratch = world.folder / f"{name}.inputs"
    made = build(
        pipeline,
        world.folder / f"{name}.parquet",
        world.folder / "validation.parquet",
        scratch=scratch if files else None,
    )
    assert not scratch.exists()
    return made


def main() -> None:
    world, limit = World(Path(sys.argv[1])), int(sys.argv[2])
    stored.HELD, stored.SAMPLE, stored.READ = 2_000_000, 1_000_000, 1_000_000
    features.CHUNK_CELLS = 100_000
    order.WHOLE, order.WINDOW = 8_000_000, 4_000_000
    trained(world, "validation", files=True)  # loads what is needed once
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmData:")[1].split()[0]) * 1024
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, unlimited[1]))
    tell(trained(world, "train", files=True))
    resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    tell(trained(world, "train", files=False))


def tell(made: Built) -> None:
    print(json.dumps({"weights": made.weights, "metrics": made.metrics, "sampled": made.sampled}))


if __name__ == "__main__":
    main()
