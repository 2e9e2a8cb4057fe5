"""The whole model as one ONNX graph, raw values in, probabilities and decision out, and the check
that it says what its family's library says.
"""

from __future__ import annotations

import numpy as np
import onnx

from penstock.contracts.errors import PenstockError
from penstock.modelkit.decision import compile_outputs
from penstock.modelkit.family import Family, Trained
from penstock.modelkit.features import Features
from penstock.modelkit.graph import Array, Graph, Runner
from penstock.modelkit.preprocessing import Preprocessing
from penstock.modelkit.rows import RowSource

# Largest difference between library and ONNX Runtime: of a probability, or of a value in standard
# deviations of the target.
TOLERANCE = 1e-6


class NotAlike(PenstockError):
    """The graph does not say what the trained model says: nothing may be made of it."""


def compile_model(
    fitted: Preprocessing,
    family: Family,
    model: Trained,
    *,
    threshold: float | None = None,
    abstain: tuple[float, float] | None = None,
) -> onnx.ModelProto:
    """`threshold`: binary only."""
    signature = fitted.signature
    graph = Graph()
    inputs = family.inputs(Features(graph, fitted))
    answers = model.compile(graph, {name: value.name for name, value in inputs.items()})
    compile_outputs(graph, answers, signature, threshold, abstain)
    return graph.build(signature.target.name)


def run(
    model: onnx.ModelProto | bytes | Runner, rows: RowSource, chunk: int = 512, *, decisions: bool = True
) -> dict[str, Array]:
    """Runs all rows through ONNX Runtime, by output name; without `decisions` numbers alone are kept."""
    runner = model if isinstance(model, Runner) else Runner(model)
    names = [name for name in runner.outputs if decisions or name != "decision"]
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for part in rows.chunks(chunk):
        answers = runner(part.numbers, part.strings)
        for name in names:
            parts[name].append(answers[name])
    return {name: np.concatenate(found) for name, found in parts.items()}


def check_parity(expected: Array, answers: dict[str, Array], spread: float) -> float:
    """The largest difference over all rows between the library's answers and the graph's. Raises
    NotAlike above TOLERANCE. `spread`: one standard deviation of a regression's target.
    """
    parts = [answers[name] for name in ("probabilities", "value", "interval") if name in answers]
    found = np.concatenate(parts, axis=1).astype(np.float64)
    unit = np.maximum(spread, np.abs(expected)) if "value" in answers else 1.0
    worst = float((np.abs(expected - found) / unit).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise NotAlike(
            f"the ONNX graph differs from the trained model by {worst:.2g}, allowed is {TOLERANCE:g}",
            remedy=(
                "Scale the numbers (`scale: standard`) or lower the learning rate: the weights have grown"
                " beyond single precision"
            ),
        )
    return worst
