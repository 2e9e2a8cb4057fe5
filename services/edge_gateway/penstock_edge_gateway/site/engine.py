"""A model version on ONNX Runtime: tensors in, tensors out.

One thread a call and no arena: a small graph gains nothing from more threads, and an arena keeps
what its largest batch took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan
from typing import Final, Self

import numpy as np
import onnxruntime

from penstock.contracts.errors import Invalid, PenstockError, Refused
from penstock.serving.model import Model
from penstock.serving.probes import batches, difference
from penstock.serving.protocol.tensors import Scalar, Tensor, Undecodable

NUMBERS, STRINGS = "numbers", "strings"
DATATYPES: Final = {NUMBERS: "FP64", STRINGS: "BYTES"}
_KINDS: Final = {NUMBERS: np.dtype("f8"), STRINGS: np.dtype(object)}
_PROBED_AT_A_TIME: Final = 32  # rows


class Engine:
    """Graph of one version, loaded. `run` may be called from several threads."""

    def __init__(self, model: Model) -> None:
        """Loads the graph, of which each byte is what the manifest says. Blocks. Raises Tampered, and
        Refused where ONNX Runtime does not take it.
        """
        self.model = model
        inputs = model.package.signature.inputs
        self.columns = {
            name: len(fields)
            for name, fields in ((NUMBERS, inputs.numbers), (STRINGS, inputs.strings))
            if fields
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        graph = model.package.read("model.onnx")
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no class in common
            raise Refused(f"ONNX Runtime does not load the graph: {error}") from error

    def run(self, tensors: Mapping[str, Tensor], asked: Iterable[str] = ()) -> dict[str, Tensor]:
        """Outputs by name, all of them where none is asked for. Raises Invalid for tensors unlike the
        version's inputs, PenstockError where the graph fails.
        """
        known = self.model.package.signature.outputs
        names = list(asked) or list(known)
        if unknown := [name for name in names if name not in known]:
            raise Invalid(
                f"{self.model.pipeline} has no output {unknown[0]!r}", remedy=f"Outputs: {', '.join(known)}"
            )
        feed = self._feed(tensors)
        try:
            found = self._session.run(names, feed)
        except Exception as error:
            raise PenstockError(f"{self.model.pipeline} failed: {error}") from error
        return {
            name: Tensor(array.shape, array.ravel().tolist())
            for name, array in zip(names, found, strict=True)
        }

    @classmethod
    def probed(cls, model: Model) -> Self:
        """Loads a version that answers the package's probe rows as the package says. Blocks. Raises
        what the constructor raises, and Refused with the first answer that is another.
        """
        engine, probes = cls(model), model.package.profile.probes
        for rows in batches(probes, _PROBED_AT_A_TIME):
            answers = engine.run(tensors_of(rows.numbers, rows.strings))
            if said := difference(rows, answers, probes.tolerance):
                raise Refused(said)
        return engine

    def _feed(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        if tensors.keys() != self.columns.keys():
            wanted, given = ", ".join(self.columns), ", ".join(tensors)
            raise Invalid(f"{self.model.pipeline} has the inputs {wanted}, given are {given or 'none'}")
        rows = {tensor.shape[0] for tensor in tensors.values() if tensor.shape}
        if len(rows) != 1:
            raise Invalid("the inputs have different numbers of rows")
        try:
            for name, columns in self.columns.items():
                tensors[name].matrix(columns, name)
        except Undecodable as error:
            raise Invalid(str(error)) from error
        return {
            name: np.array(tensor.values, _KINDS[name]).reshape(tensor.shape)
            for name, tensor in tensors.items()
        }


def tensors_of(
    numbers: Iterable[Iterable[float | None]], strings: Iterable[Iterable[str]]
) -> dict[str, Tensor]:
    """Tensors of some rows; None among the numbers is NaN, and a tensor without columns is left out."""
    rows: dict[str, list[list[Scalar]]] = {
        NUMBERS: [[nan if value is None else value for value in row] for row in numbers],
        STRINGS: [list(row) for row in strings],
    }
    return {
        name: Tensor((len(found), len(found[0])), [value for row in found for value in row])
        for name, found in rows.items()
        if found and found[0]
    }
