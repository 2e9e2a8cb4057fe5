"""A foreign graph in a process of its own: `python -m penstock.modelkit.imports.confined` reads an
order on standard input and answers on standard output.

Before the graph is parsed the process gives up opening files and with it starting programs, writing,
and memory and processor time beyond a bound. What comes back is arrays without pickles, or a sentence.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from typing import Any

import numpy as np

from penstock.contracts.dataplane import MAX_NUMBER
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Decision
from penstock.modelkit.graph import Array
from penstock.modelkit.rows import Rows
from penstock.packages.confined import MEMORY, confine, wants_too_much
from penstock.packages.parts import ModelSignature

SECONDS = 60  # of the clock, and of a processor
ALONE = 8  # rows that are also asked one by one
ALIKE = 1e-5
LONG = 10_000  # characters of an odd text


def adopt(
    content: bytes,
    signature: ModelSignature,
    rows: Rows,
    probes: Rows,
    decision: Decision,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> dict[str, Array]:
    """Checks the graph and adapts it. Returns arrays: `model` (bytes of the whole graph), `threshold`
    (empty where there is none), and its outputs for `rows` and `probes` as `rows.NAME`, `probes.NAME`.

    Blocks for up to `seconds`. Raises Invalid for whatever is wrong with it.
    """
    sent = _packed(**order_of(content, signature, rows, probes, decision, seconds=seconds, memory=memory))
    command = [sys.executable, "-m", "penstock.modelkit.imports.confined"]
    try:
        done = subprocess.run(command, input=sent, capture_output=True, timeout=seconds + 30, check=False)
    except subprocess.TimeoutExpired as error:
        raise _too_long(seconds) from error
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_long(seconds)
    try:
        with np.load(io.BytesIO(done.stdout), allow_pickle=False) as found:
            answers = {name: found[name] for name in found.files}
    except Exception as error:  # whatever a process that died half-way left
        raise Invalid(
            f"the graph ends the process that runs it (exit {done.returncode})",
            remedy="Run it in onnxruntime with rows of the pipeline, and export it again",
        ) from error
    if "refused" in answers:
        raise Invalid(**json.loads(answers["refused"].tobytes()))
    return answers


def order_of(
    content: bytes, signature: ModelSignature, rows: Rows, probes: Rows, decision: Decision, **limits: float
) -> dict[str, Array]:
    """Arrays that the process is told: `examine` takes them."""
    order = {
        "signature": signature.model_dump(mode="json"),
        "decision": decision.model_dump(mode="json"),
        "strings": [part.strings.tolist() for part in (rows, probes)],
        **limits,
    }
    return {
        "order": np.frombuffer(json.dumps(order).encode(), np.uint8),
        "graph": np.frombuffer(content, np.uint8),
        "labels": rows.labels,
        "rows": rows.numbers,
        "probes": probes.numbers,
    }


def _too_long(seconds: float) -> Invalid:
    return Invalid(
        f"the graph does not answer within {seconds:g} s", remedy="Export a graph without endless loops"
    )


def _packed(**arrays: Array) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    return packed.getvalue()


# -- in the confined process -----------------------------------------------------------------------


def main() -> None:
    import onnx.compose  # noqa: F401  all that is needed, before no file can be opened
    import onnxruntime  # noqa: F401

    from penstock.modelkit import decision  # noqa: F401
    from penstock.modelkit.imports import adapters, checks  # noqa: F401

    out = sys.stdout.buffer
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as sent:
        arrays = {name: sent[name] for name in sent.files}
    order = json.loads(arrays["order"].tobytes())
    confine(order["seconds"], order["memory"])
    try:
        found = examine(arrays)
    except Invalid as error:
        said = {"message": error.message, "where": error.where, "remedy": error.remedy}
        found = {"refused": np.frombuffer(json.dumps(said).encode(), np.uint8)}
    out.write(_packed(**found))
    out.flush()


def examine(arrays: dict[str, Array]) -> dict[str, Array]:
    """Parses, adapts and runs the graph: see `adopt`. Raises Invalid."""
    from penstock.modelkit.decision import choose_threshold
    from penstock.modelkit.imports.adapters import Adapted
    from penstock.modelkit.imports.checks import parse

    order = json.loads(arrays["order"].tobytes())
    signature = ModelSignature.model_validate(order["signature"])
    decision = Decision.model_validate(order["decision"])
    sides = [
        (numbers, np.array(strings, dtype=object).reshape(len(numbers), len(signature.inputs.strings)))
        for numbers, strings in zip((arrays["rows"], arrays["probes"]), order["strings"], strict=True)
    ]
    adapted = Adapted(parse(arrays["graph"].tobytes()), signature)
    threshold = 0.5 if signature.target.type == "binary" else None
    answers = _checked(adapted.build(threshold).SerializeToString(), sides, signature)
    if threshold is not None:
        threshold = choose_threshold(decision, arrays["labels"], answers[0]["probabilities"][:, 1])
    model = adapted.build(threshold, decision.abstain).SerializeToString(deterministic=True)
    answers = [_run(_session(model), *side) for side in sides]
    named = {
        f"{part}.{name}": np.array(values, dtype=str) if values.dtype == object else values
        for part, found in zip(("rows", "probes"), answers, strict=True)
        for name, values in found.items()
    }
    found = [] if threshold is None else [threshold]
    return named | {"model": np.frombuffer(model, np.uint8), "threshold": np.array(found)}


def _checked(
    model: bytes, sides: list[tuple[Array, Array]], signature: ModelSignature
) -> list[dict[str, Array]]:
    """Answers of the graph, which must be ones, and the same whenever and beside whomever a row is asked."""
    session = _session(model)
    name, columns = ("probabilities", len(signature.classes)) if signature.classes else ("value", 1)
    found = []
    for numbers, strings in sides:
        answers = _run(session, numbers, strings)
        _check_answers(answers[name], len(numbers), columns, name)
        again = _run(session, numbers, strings)[name]
        if not np.allclose(answers[name], again, rtol=ALIKE, atol=ALIKE):
            raise Invalid(
                "the graph answers the same rows differently when it is asked again",
                where=name,
                remedy="Export it for inference: without random operators and without dropout",
            )
        for row in range(min(ALONE, len(numbers))):
            alone = _run(session, numbers[row : row + 1], strings[row : row + 1])[name]
            if alone.shape != (1, columns) or not np.allclose(
                alone[0], answers[name][row], rtol=ALIKE, atol=ALIKE
            ):
                raise Invalid(
                    "a row's answer depends on the rows beside it",
                    where=name,
                    remedy="Export it for inference: batch normalisation with the means of training",
                )
        found.append(answers)
    numbers, strings = _odd(signature)
    answers = _run(session, numbers, strings, f"rows of 0, ±{MAX_NUMBER:g} and texts of {LONG:,} characters")
    _check_shape(answers[name], len(numbers), columns, name)
    return found


def _odd(signature: ModelSignature) -> tuple[Array, Array]:
    """Rows that a caller may send and few training splits hold: numbers and strings."""
    numbers, texts = np.array([0.0, MAX_NUMBER, -MAX_NUMBER]), np.array(["", "?", "long " * (LONG // 5)])
    inputs = signature.inputs
    return (
        np.repeat(numbers[:, None], len(inputs.numbers), axis=1),
        np.repeat(texts[:, None].astype(object), len(inputs.strings), axis=1),
    )


def _check_shape(answers: Array, rows: int, columns: int, name: str) -> None:
    if answers.shape != (rows, columns):
        raise Invalid(
            f"{rows} rows are answered with shape {list(answers.shape)}, not [{rows}, {columns}]",
            where=name,
            remedy="Export a graph whose first dimension is the rows, however many",
        )


def _check_answers(answers: Array, rows: int, columns: int, name: str) -> None:
    _check_shape(answers, rows, columns, name)
    if wrong := int((~np.isfinite(answers).all(axis=1)).sum()):
        raise Invalid(
            f"the answer is no number for {wrong} of {rows} rows; a missing value comes as NaN",
            where=name,
            remedy="Put into the graph what is to be taken for a missing value",
        )
    if name == "value":
        return
    sums = answers.astype(np.float64).sum(axis=1)
    if (answers < 0).any() or (answers > 1 + ALIKE).any() or (np.abs(sums - 1) > 1e-3).any():
        raise Invalid(
            f"the answers are no probabilities: they lie between {answers.min():.4g} and"
            f" {answers.max():.4g}, their sums between {sums.min():.4g} and {sums.max():.4g}",
            where=name,
            remedy="Export the graph with its sigmoid or softmax",
        )


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with _said("the graph cannot be loaded"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(
    session: Any, numbers: Array, strings: Array, those: str = "rows of the pipeline"
) -> dict[str, Array]:
    feed = {"numbers": numbers, "strings": strings}
    names = [output.name for output in session.get_outputs()]
    with _said(f"the graph fails on {those}"):
        answers = session.run(None, {one.name: feed[one.name] for one in session.get_inputs()})
    return dict(zip(names, answers, strict=True))


@contextlib.contextmanager
def _said(what: str) -> Any:
    """Makes a sentence of whatever ONNX Runtime raises: its errors share no base."""
    try:
        yield
    except Exception as error:
        if wants_too_much(error):
            raise _too_large() from error
        first = str(error).strip().split("\n", 1)[0]
        raise Invalid(
            f"{what}: {first[:300]}", remedy="Run it in onnxruntime with such rows, and export it again"
        ) from error


def _too_large() -> Invalid:
    return Invalid(
        "the graph wants more memory than an import may have",
        remedy="Export a graph that needs less: look for constants that are expanded when it runs",
    )


if __name__ == "__main__":
    main()
