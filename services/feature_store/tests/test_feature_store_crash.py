"""`kill -9` of whoever writes the lake, at random moments, over and over: a list of rows, not a
set, is compared.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from lending import append, credit_risk, record

from penstock.testing.wait import until
from penstock_feature_store import names
from penstock_feature_store.lake.files import RUN
from penstock_feature_store.lake.lake import Lake, SourceLake

pytestmark = pytest.mark.process

ROUNDS = 8


def write(root: Path, said: Path) -> None:
    """Appends, merges and says how far it is, until it is killed."""
    pipeline = credit_risk()
    with Lake(root) as lakes, said.open("w") as out:
        lake = lakes.source("p", "applications")
        while True:
            first = lake.positions().get(0, 0)
            rows = [
                record(offset, f"e{offset % 50}", 1, {"income": float(offset)})
                for offset in range(first, first + 1 + first % 7)
            ]
            append(lake, pipeline, "applications", rows)
            lake.merge()
            print(lake.positions()[0], file=out, flush=True)


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_killing_the_writer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(11)
    for number in range(ROUNDS):
        said = tmp_path / f"said-{number}"
        writer = multiprocessing.get_context("fork").Process(target=write, args=(tmp_path, said))
        writer.start()
        try:
            until(lambda path=said: len(lines(path)) > 2, what="it writes")  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.3))  # the moment of the kill, seeded
        finally:
            writer.kill()
            writer.join()
        lake = SourceLake(tmp_path / "p" / "applications")
        position = lake.positions()[0]
        assert position >= int(lines(said)[-1])
        assert sorted(lake.read([names.OFFSET]).column(names.OFFSET).to_pylist()) == list(range(position))
        assert lake.count() == position
        assert lake.file_count() < 4 * RUN
