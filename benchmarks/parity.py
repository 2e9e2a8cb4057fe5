"""Distances between torch, ONNX Runtime and Triton through Envoy, on all 48,842 census records.

    python benchmarks/parity.py --home HOME      # of a stack where the demo has run

The trainer compares torch and ONNX Runtime over the rows that it trains and validates on, and makes
no package that is further apart than 1e-6. Here its run is made once more from its training set,
which gives the same bytes, and torch answers the audit's rows, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import onnxruntime
import tritonclient.grpc as triton

from penstock.client import ClientSettings, Penstock
from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import finish, prepare
from penstock.modelkit.family import Part, family_of
from penstock.modelkit.features import transform
from penstock.modelkit.model import run
from penstock.modelkit.rows import read
from penstock.packages.archive import unpack
from penstock.packages.format import open_package

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "adult-income"))

import asking  # noqa: E402  examples are programs, not a package
from data import Event, people  # noqa: E402

PIPELINE = "adult-income"
BATCH = 64


def measure(home: Path) -> dict[str, float]:
    with Penstock(ClientSettings(home=home)) as penstock, tempfile.TemporaryDirectory() as scratch:
        promoted = penstock.pipelines.get(PIPELINE).promoted_digest
        tar = Path(scratch, "package.tar")
        tar.write_bytes(b"".join(penstock.models.fetch(promoted)))
        unpack(tar, Path(scratch, "package"))
        folder = next(Path(scratch, "package").rglob("manifest.json")).parent
        package = open_package(folder, promoted)
        spec = penstock.pipelines.spec(PIPELINE)
        events = people()
        columns = {
            name: feature.source_field.partition(".")[2] for name, feature in spec.resolved_features().items()
        }
        inputs = package.signature.inputs
        numbers = np.array([[number(event, columns[name]) for name in inputs.numbers] for event in events])
        texts = np.array(
            [[str(event.get(columns[name], "")) for name in inputs.strings] for event in events], dtype=object
        )
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        expected = session.run(["probabilities"], {"numbers": numbers, "strings": texts})[0]
        found = through_the_door(penstock.settings.endpoint, numbers, texts)
        model = penstock.lineage.trace(promoted).model
        assert model is not None
        rows, apart = library_and_onnxruntime(
            spec, model.training_set, (folder / "model.onnx").read_bytes(), Path(scratch)
        )
    assert rows == len(events)
    return {
        "rows": rows,
        "torch_onnxruntime": apart,
        "onnxruntime_triton": float(np.abs(found - expected).max()),
    }


def library_and_onnxruntime(
    pipeline: Pipeline, training_set: TrainingSet, graph: bytes, folder: Path
) -> tuple[int, float]:
    """Counts rows; measures the largest difference between the answers of the model and of its graph."""
    *parts, audit = (
        Path(urlparse(part.uri).path)
        for part in (training_set.train, training_set.validation, training_set.audit)
    )
    family = family_of(pipeline.model)
    prepared = prepare(pipeline, *parts)
    model = family.fit(pipeline, prepared, checkpoint=folder / "checkpoint.pt")
    built = finish(pipeline, prepared, model)
    assert built.model == graph, "the same training set, seed and pipeline make the same model, byte for byte"
    unseen = read(audit, prepared.signature, pipeline)
    split = [
        prepared.train,
        prepared.validation,
        Part(unseen, transform(prepared.preprocessing, unseen, family.inputs)),
    ]
    pairs = [(model.predict(part.inputs), run(graph, part.rows)["probabilities"]) for part in split]
    return sum(len(part.rows) for part in split), max(
        float(np.abs(ours - theirs).max()) for ours, theirs in pairs
    )


def through_the_door(endpoint: str, numbers: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Probabilities [N, 2]."""
    strings = np.array([text.encode() for text in texts.ravel()], dtype=object).reshape(texts.shape)
    answers = []
    with triton.InferenceServerClient(endpoint) as client:
        for start in range(0, len(numbers), BATCH):
            part = slice(start, start + BATCH)
            inputs = asking.inputs(numbers[part], strings[part])
            answers.append(client.infer(PIPELINE, inputs).as_numpy("probabilities"))
    return np.concatenate(answers)


def number(event: Event, column: str) -> float:
    value = event.get(column)
    return float(value) if isinstance(value, int | float) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.home)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"torch and ONNX Runtime: {found['torch_onnxruntime']:.1e} at most")
    print(
        f"ONNX Runtime and Triton through Envoy: {found['onnxruntime_triton']:.1e} at most, over"
        f" {found['rows']} rows"
    )


if __name__ == "__main__":
    main()
