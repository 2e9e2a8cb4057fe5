"""Model repository of Triton on disk: one folder a model, config.pbtxt and
`<generation>/model.onnx`.

Triton reads a folder only when it is told to load; each write is whole or not at all, so that a
load after a crash finds something sound.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Literal

from penstock.contracts.pipeline import Batch
from penstock.packages.parts import ModelSignature

Device = Literal["cpu", "gpu"]

_TYPES: Final = {"FP32": "TYPE_FP32", "FP64": "TYPE_FP64", "INT64": "TYPE_INT64", "BYTES": "TYPE_STRING"}
CONFIG: Final = "config.pbtxt"
MODEL: Final = "model.onnx"


def model_config(
    name: str, signature: ModelSignature, batch: Batch, versions: Collection[int], device: Device = "cpu"
) -> str:
    """Text of config.pbtxt for `versions` of one model. Requests that come together run as one
    batch of at most `batch.max_size` rows.

    One instance on one thread: in the embedded stack it shares two cores with everything else, and
    batching is what makes it fast. On GPUs one instance each.
    """
    inputs = [("numbers", "FP64", signature.inputs.numbers), ("strings", "BYTES", signature.inputs.strings)]
    delay = round(batch.max_delay.total_seconds() * 1_000_000)
    return "\n".join(
        [
            f"name: {json.dumps(name)}",
            'backend: "onnxruntime"',
            f"max_batch_size: {batch.max_size}",
            *("input " + _tensor(kind, datatype, len(names)) for kind, datatype, names in inputs if names),
            *(
                "output " + _tensor(output, said.datatype, said.columns)
                for output, said in sorted(signature.outputs.items())
            ),
            f"version_policy {{ specific {{ versions: {sorted(versions)} }} }}",
            f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}",
            f"instance_group [ {{ count: 1 kind: KIND_{device.upper()} }} ]",
            'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }',
            'parameters { key: "inter_op_thread_count" value: { string_value: "1" } }',
            "",
        ]
    )


def _tensor(name: str, datatype: str, columns: int) -> str:
    return f"{{ name: {json.dumps(name)} data_type: {_TYPES[datatype]} dims: [{columns}] }}"


class ModelRepository:
    """Folder that Triton was started with. Methods block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder.parent / "incoming"

    def place(self, name: str, version: int, graph: bytes) -> None:
        """Writes a version's graph, in the place of one that is there."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._incoming) as scratch:
            made = Path(scratch) / str(version)
            made.mkdir()
            (made / MODEL).write_bytes(graph)
            target = self.folder / name / str(version)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.remove_versions(name, [version])
            made.rename(target)

    def configure(self, name: str, config: str) -> None:
        """Replaces a model's configuration."""
        path = self.folder / name / CONFIG
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(config)
        beside.replace(path)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.glob("*") if path.is_dir()}

    def versions(self, name: str) -> set[int]:
        return {int(path.name) for path in (self.folder / name).glob("*") if path.name.isdecimal()}

    def remove_versions(self, name: str, versions: Iterable[int]) -> None:
        for version in versions:
            shutil.rmtree(self.folder / name / str(version), ignore_errors=True)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
