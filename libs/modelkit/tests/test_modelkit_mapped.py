"""Inputs in files: the same to the last bit as in memory, gone in the end, and a full disk is a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.modelkit import features, mapped, stored
from penstock.modelkit.build import build
from penstock.modelkit.family import family_of
from penstock.modelkit.features import WordNumbers, WordWeights
from penstock.modelkit.network import Tensors
from penstock.modelkit.preprocessing import fit
from penstock.modelkit.rows import Rows, RowSource, signature
from penstock.modelkit.stored import StoredRows

FIELDS = {"x": "number", "c": "category", "t": "text"}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"type": "mlp", "hidden": [8]}},
    "boosted_trees": {"model": {"type": "boosted_trees", "num_leaves": 4}},
    "text_cnn": {"features": {"x": {}, "c": {}, "t": {"encode": "text_cnn"}}},
}


def parts(world: Any) -> tuple[Path, Path]:
    def part(name: str, count: int, seed: int) -> Path:
        random = np.random.default_rng(seed)
        words = random.choice(["good", "bad", "late", "soon"], (count, 3))
        columns = {
            "x": [float(value) if value > -1 else None for value in random.normal(size=count)],
            "c": random.choice(["a", "b", "cc"], count).tolist(),
            "t": [" ".join(row) if row[0] != "soon" else "" for row in words.tolist()],
        }
        columns["__group_g"] = random.choice(["m", "f", None], count).tolist()
        made: Path = world.part(name, columns, random.integers(0, 2, count).tolist())
        return made

    return part("train", 400, 1), part("validation", 100, 2)


@pytest.mark.parametrize("model", MODELS)
def test_from_files_the_same_model_follows(
    model: str, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**MODELS[model], "trainer": {"epochs": 2}}
    named = spec.pop("features", {name: {} for name in FIELDS if model == "mlp" or name != "t"})
    pipeline, files = world.pipeline(FIELDS, named, **spec), parts(world)
    expected = build(pipeline, *files)
    scratch = tmp_path / "inputs"
    scratch.mkdir()
    (scratch / "of-a-killed-attempt").touch()
    monkeypatch.setattr(features, "CHUNK_CELLS", 1)  # chunks of 64 rows
    monkeypatch.setattr(features, "PIECE", 64)
    monkeypatch.setattr(stored, "HELD", 0)  # rows stay in their files, and all of them are sampled
    monkeypatch.setattr(StoredRows, "sampled", lambda rows: next(rows.chunks(len(rows))))
    seen: list[int] = []

    found = build(
        pipeline, *files, scratch=scratch, on_epoch=lambda _: seen.append(len([*scratch.glob("*/*")]))
    )

    assert found.model == expected.model
    assert found.metrics == expected.metrics
    assert found.profile == expected.profile
    assert min(seen) > 0
    assert not scratch.exists()


def test_texts_in_chunks_weigh_what_they_weigh_together(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, for any number of words."""
    random = np.random.default_rng(3)
    words = [f"w{number}" for number in range(37)]
    texts = [" ".join(random.choice(words, random.integers(1, 60))) for _ in range(700)]
    path = world.part("train", {"t": texts}, [0, 1] * 350)
    pipeline = world.pipeline({"t": "text"}, {"t": {}}, model={"type": "mlp"})
    rows = stored.opened(path, signature(pipeline, ("false", "true")), pipeline)
    fitted = fit(pipeline, signature(pipeline, ("false", "true")), rows.sampled())
    wanted = family_of(pipeline.model).inputs

    def weights() -> Any:
        return next(iter(features.transform(fitted, rows, wanted).values()))

    monkeypatch.setattr(features, "CHUNK_CELLS", 10**9)
    together = weights()
    assert isinstance(together, WordWeights)
    assert together.width % 4
    monkeypatch.setattr(features, "CHUNK_CELLS", 101 * together.width)
    np.testing.assert_array_equal(weights().weights, together.weights)


@pytest.mark.parametrize("target", [{}, {"type": "regression"}])
def test_rows_that_stay_in_their_file_give_what_rows_in_memory_give(
    target: dict[str, str], world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(path: Path, held: int) -> RowSource:
        return stored.opened(path, rows_signature, pipeline, held)

    pipeline = world.pipeline(FIELDS, {name: {} for name in FIELDS}, target or None)
    rows_signature = signature(pipeline, () if target else ("false", "true"))
    path, _ = parts(world)
    whole, kept = rows(path, 1 << 30), rows(path, 0)
    monkeypatch.setattr(stored, "READ", 7_000)
    found = list(kept.chunks(30))

    assert isinstance(whole, Rows)
    assert isinstance(kept, StoredRows)
    assert max(map(len, found)) == 30
    for name in ("numbers", "strings", "labels"):
        together = np.concatenate([getattr(chunk, name) for chunk in found])
        np.testing.assert_array_equal(together, getattr(whole, name))
    assert {name: values.tolist() for name, values in kept.groups.items()} == {
        name: values.tolist() for name, values in whole.groups.items()
    }
    np.testing.assert_array_equal(kept.sampled().strings, whole.strings)
    monkeypatch.setattr(stored, "SAMPLE", stored.row_bytes(rows_signature) * 100)
    assert len(kept.sampled()) == 100


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    chunks = [
        {
            "dense": np.full((rows, 2), rows, np.float32),
            "buckets": np.empty((rows, 0), np.int64),
            "words0": WordWeights(np.arange(rows + 1), np.arange(rows), np.ones(rows, np.float32), width=9),
            "sequence0": WordNumbers(np.arange(0, 2 * rows + 1, 2), np.arange(2 * rows)),
        }
        for rows in (3, 1, 2)
    ]
    mapped.write(tmp_path / "part", chunks)
    found = mapped.read(tmp_path / "part")

    together = {name: features._joined([chunk[name] for chunk in chunks]) for name in chunks[0]}
    assert list(found) == list(together)
    for mine, theirs in zip(Tensors.of(found).contents(), Tensors.of(together).contents(), strict=True):
        assert (mine.dtype, mine.tolist()) == (theirs.dtype, theirs.tolist())


def test_what_fails_leaves_nothing(world: Any, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    pipeline = world.pipeline(FIELDS, {"x": {}}, trainer={"epochs": 1})
    with pytest.raises(KeyboardInterrupt):
        build(pipeline, *parts(world), scratch=tmp_path / "inputs", on_epoch=stop)
    assert not (tmp_path / "inputs").exists()


FULL = """\
import subprocess, sys
from pathlib import Path
import numpy as np
from penstock.contracts.errors import Unavailable
from penstock.modelkit import mapped
from penstock.modelkit.family import write_whole

folder = Path(sys.argv[1])

def mount(bound):
    subprocess.run(["mount", "-t", "tmpfs", "-o", bound, "tmpfs", folder], check=True)

def refused(write, *given):
    try:
        write(*given)
    except Unavailable as error:
        print(error)

mount("size=1m")
mapped.write(folder / "small", [{"dense": np.zeros((1000, 10))}])
refused(mapped.write, folder / "large", ({"dense": np.zeros((1000, 10))} for _ in range(100)))
print([path.name for path in folder.iterdir()])
mount("nr_inodes=1")  # not even a folder
refused(mapped.write, folder / "small", [{"dense": np.zeros((1, 1))}])
refused(write_whole, folder / "run" / "checkpoint.pt", b"")
"""


def test_a_full_disk_is_a_sentence_and_leaves_no_part(tmp_path: Path) -> None:
    mounts = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*mounts, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a file system")
    done = subprocess.run([*mounts, sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    large, left, *others = done.stdout.splitlines()
    told = "new: the disk is full. Free some room"
    assert large.startswith(f"{tmp_path}/large.{told}")
    assert left == "['small']"
    assert len(others) == 2
    for said, name in zip(others, ("small", "run/checkpoint"), strict=True):
        assert said.startswith(f"{tmp_path}/{name}.{told}")
