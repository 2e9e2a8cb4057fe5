"""How far apart torch, ONNX Runtime and Triton through Envoy are, on all 48,842 census records.

    python benchmarks/parity.py --home HOME      # of a stack where the demo has run

torch against ONNX Runtime is what the trainer measured over all training and validation rows when it made the package (a package that
is further apart than 1e-6 is not made); it stands in the model card. ONNX Runtime against Triton is measured here, on every record.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tritonclient.grpc as triton

from penstock.client import ClientSettings, Penstock
from penstock.packages.archive import unpack
from penstock.packages.format import open_package

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "adult-income"))

from data import Event, people  # noqa: E402  examples are programs, not a package

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
        columns = {name: feature.source_field.partition(".")[2] for name, feature in spec.resolved_features().items()}
        inputs = package.signature.inputs
        numbers = np.array([[number(event, columns[name]) for name in inputs.numbers] for event in events])
        texts = np.array([[str(event.get(columns[name], "")) for name in inputs.strings] for event in events], dtype=object)
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        expected = session.run(["probabilities"], {"numbers": numbers, "strings": texts})[0]
        found = through_the_door(penstock.settings.endpoint, numbers, texts)
        card = (folder / "model_card.md").read_text()
    said = re.search(r"at most ([0-9.e+-]+) over all", card)
    return {
        "rows": len(events),
        "torch_onnxruntime": float(said[1]) if said else float("nan"),
        "onnxruntime_triton": float(np.abs(found - expected).max()),
    }


def through_the_door(endpoint: str, numbers: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Probabilities [N, 2]."""
    strings = np.array([text.encode() for text in texts.ravel()], dtype=object).reshape(texts.shape)
    answers = []
    with triton.InferenceServerClient(endpoint) as client:
        for start in range(0, len(numbers), BATCH):
            part = slice(start, start + BATCH)
            inputs = [
                triton.InferInput("numbers", list(numbers[part].shape), "FP64"),
                triton.InferInput("strings", list(strings[part].shape), "BYTES"),
            ]
            inputs[0].set_data_from_numpy(numbers[part])
            inputs[1].set_data_from_numpy(strings[part])
            answers.append(client.infer(PIPELINE, inputs).as_numpy("probabilities"))
    return np.concatenate(answers)


def number(event: Event, column: str) -> float:
    value = event.get(column)
    return float(value) if isinstance(value, int | float) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.home)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"torch and ONNX Runtime: {found['torch_onnxruntime']:.1e} at most")
    print(f"ONNX Runtime and Triton through Envoy: {found['onnxruntime_triton']:.1e} at most, over {found['rows']} rows")


if __name__ == "__main__":
    main()
