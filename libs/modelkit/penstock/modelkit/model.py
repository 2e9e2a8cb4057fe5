"""The whole model as one ONNX graph, raw values in, probabilities and decision out, and the check
that it says what torch says.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch

from penstock.contracts.errors import PenstockError
from penstock.modelkit.decision import compile_decision
from penstock.modelkit.graph import FLOAT, STRING, Array, Graph, Runner
from penstock.modelkit.network import Network, Tensors, compile_network
from penstock.modelkit.preprocessing import Preprocessing, compile_into
from penstock.modelkit.rows import Rows

TOLERANCE = 1e-6
"""Between torch and ONNX Runtime: of a probability, or of a value in standard deviations of the target."""


class NotAlike(PenstockError):
    """The graph does not say what the trained network says: nothing may be made of it."""


def compile_model(
    fitted: Preprocessing,
    network: Network,
    *,
    offset: float = 0.0,
    spread: float = 1.0,
    threshold: float | None = None,
    abstain: tuple[float, float] | None = None,
) -> onnx.ModelProto:
    """`offset`, `spread`: mean and standard deviation of a regression's target in training.
    `threshold`: binary only.
    """
    signature = fitted.signature
    graph = Graph()
    logits = compile_network(graph, compile_into(graph, fitted), network)
    match signature.target.type:
        case "regression":
            scaled = graph.op("Mul", logits, graph.constant(spread, np.float32))
            value = graph.op("Add", scaled, graph.constant(offset, np.float32))
            graph.output(value, "value", FLOAT, ["N", 1])
            return graph.build(signature.target.name)
        case "binary":
            both = graph.op("Concat", graph.op("Neg", logits), logits, axis=1)
            probabilities = graph.op("Sigmoid", both)
        case "multiclass":
            probabilities = graph.op("Softmax", logits, axis=1)
    decision = compile_decision(graph, probabilities, signature.classes, threshold, abstain)
    graph.output(probabilities, "probabilities", FLOAT, ["N", len(signature.classes)])
    graph.output(decision, "decision", STRING, ["N", 1])
    return graph.build(signature.target.name)


def by_torch(
    network: Network, tensors: Tensors, task: str, *, offset: float = 0.0, spread: float = 1.0
) -> Array:
    """The same from torch: probabilities float32 [N, k], or values float32 [N, 1]."""
    logits = network.predict(tensors)
    if task == "regression":
        found = logits * spread + offset
    elif task == "binary":
        found = torch.sigmoid(torch.cat([-logits, logits], dim=1))
    else:
        found = torch.softmax(logits, dim=1)
    result: Array = found.numpy()
    return result


def run(model: onnx.ModelProto | bytes, rows: Rows, chunk: int = 4096) -> dict[str, Array]:
    """All rows through ONNX Runtime, by output name."""
    runner = Runner(model)
    parts = [
        runner(rows.numbers[at : at + chunk], rows.strings[at : at + chunk])
        for at in range(0, max(1, len(rows)), chunk)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in runner.outputs}


def check_parity(
    network: Network, tensors: Tensors, answers: dict[str, Array], task: str, *, offset: float, spread: float
) -> float:
    """The largest difference over all rows. Raises NotAlike above TOLERANCE."""
    expected = by_torch(network, tensors, task, offset=offset, spread=spread).astype(np.float64)
    found = answers["value" if task == "regression" else "probabilities"].astype(np.float64)
    unit = np.maximum(spread, np.abs(expected)) if task == "regression" else 1.0
    worst = float((np.abs(expected - found) / unit).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise NotAlike(
            f"the ONNX graph differs from the trained network by {worst:.2g}, allowed is {TOLERANCE:g}",
            remedy=(
                "Scale the numbers (`scale: standard`) or lower the learning rate: the weights have grown"
                " beyond single precision"
            ),
        )
    return worst
