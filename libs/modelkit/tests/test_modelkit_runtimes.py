"""A graph loads and answers alike in the ONNX Runtimes that released Tritons carry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from penstock.modelkit.build import Built, build
from penstock.modelkit.graph import Runner
from penstock.modelkit.rows import Rows, read

RELEASES = ("1.19.2", "1.20.1", "1.22.1")
"""The pinned one is what every other test runs."""
FIELDS = {"age": "number", "income": "number", "purpose": "category", "town": "category", "note": "text"}
EMBEDDED: dict[str, Any] = {"purpose": {"encode": "embedding"}, "town": {"encode": "embedding"}}
ANSWER = """
import sys
import numpy, onnxruntime
assert onnxruntime.__version__ == sys.argv[1]
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
rows = numpy.load("rows.npz", allow_pickle=True)
(answer,) = session.run(["probabilities"], {"numbers": rows["numbers"], "strings": rows["strings"]})
numpy.save("answer.npy", answer)
"""


@pytest.fixture(scope="module", params=["linear", "mlp"])
def made(request: pytest.FixtureRequest, worlds: Any) -> tuple[Built, Rows]:
    """A model with every kind of input, two of them embedded, and rows for it."""
    world = worlds()
    random = np.random.default_rng(3)

    def part(name: str, count: int) -> Path:
        columns = {
            "age": random.normal(40, 10, count).tolist(),
            "income": [
                float(value) if random.random() > 0.2 else None for value in random.normal(size=count)
            ],
            "purpose": random.choice(["home", "car", "日本"], count).tolist(),
            "town": random.choice(["north", "south", "west"], count).tolist(),
            "note": random.choice(["paid late", "paid", "call back"], count).tolist(),
        }
        return world.part(name, columns, random.integers(0, 2, count).tolist())

    features = {name: EMBEDDED.get(name, {}) for name in FIELDS}
    pipeline = world.pipeline(FIELDS, features, model={"type": request.param}, trainer={"epochs": 1})
    validation = part("validation", 60)
    built = build(pipeline, part("train", 200), validation)
    return built, read(validation, built.signature, pipeline)


def test_every_node_has_a_name_of_its_own(made: tuple[Built, Rows]) -> None:
    names = [node.name for node in onnx.load_from_string(made[0].model).graph.node]
    assert "" not in names
    assert len(set(names)) == len(names)


@pytest.mark.slow  # it installs each release
@pytest.mark.parametrize("release", RELEASES)
def test_an_older_runtime_answers_alike(made: tuple[Built, Rows], release: str, tmp_path: Path) -> None:
    built, rows = made
    (tmp_path / "model.onnx").write_bytes(built.model)
    np.savez(tmp_path / "rows.npz", numbers=rows.numbers, strings=rows.strings)
    python = tmp_path / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, python.parents[1]], check=True, timeout=60)
    packages = [f"onnxruntime=={release}", f"numpy=={np.__version__}"]
    subprocess.run([*uv, "pip", "install", "--python", python, *packages], check=True, timeout=600)
    done = subprocess.run(
        [python, "-c", ANSWER, release], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    expected = Runner(built.model)(rows.numbers, rows.strings)["probabilities"]
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-6)
