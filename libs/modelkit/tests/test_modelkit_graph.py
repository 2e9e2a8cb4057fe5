"""The whole model as one graph: torch and ONNX Runtime agree, and nothing that a caller sends breaks it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from penstock.contracts.errors import PenstockError
from penstock.modelkit.build import Built, build
from penstock.modelkit.family import family_of
from penstock.modelkit.features import transform
from penstock.modelkit.graph import Runner
from penstock.modelkit.model import NotAlike, check_parity, compile_model, run
from penstock.modelkit.network import Layers, Shape
from penstock.modelkit.neural import TrainedNetwork
from penstock.modelkit.preprocessing import fit
from penstock.modelkit.rows import read, signature

FIELDS = {"age": "number", "income": "number", "purpose": "category", "owner": "boolean", "note": "text"}
FEATURES: dict[str, Any] = {
    "note": {"vocabulary": 20},
    "income": {"clip": ["p01", "p99"]},
    "purpose": {"encode": "embedding"},
    "age": {"impute": "mean"},
    "owner": {},
}
WORDS = ["late", "paid", "Überzug", "call-back", "gone"]


def columns(count: int, seed: int) -> tuple[dict[str, list[Any]], np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    age = random.normal(40, 10, count)
    income = random.lognormal(8, 1, count)
    purpose = random.choice(["home", "car", "日本", "other"], count)
    word = random.choice(WORDS, (count, 3))
    score = (
        (age - 40) / 10
        + np.log(income)
        - 8
        + (purpose == "car")
        - 2 * (word == "late").any(axis=1)
        + random.normal(0, 0.5, count)
    )
    found = {
        "age": [None if random.random() < 0.1 else float(value) for value in age],
        "income": income.tolist(),
        "purpose": [None if random.random() < 0.1 else str(value) for value in purpose],
        "owner": random.choice(["true", "false"], count).tolist(),
        "note": [None if random.random() < 0.1 else " ".join(words) + "!" for words in word],
    }
    return found, score


def made(world: Any, task: str, **sections: Any) -> tuple[Built, Any, Any]:
    target = {"binary": {}, "multiclass": {"type": "multiclass"}, "regression": {"type": "regression"}}[task]
    pipeline = world.pipeline(
        FIELDS, FEATURES, target, **{"trainer": {"epochs": 4, "batch_size": 64}, **sections}
    )
    classes = {"binary": ["false", "true"], "multiclass": ["low", "middle", "high"], "regression": []}[task]
    parts = []
    for name, count, seed in (("train", 600, 1), ("validation", 200, 2)):
        found, score = columns(count, seed)
        labels = {
            "binary": (score > 0).astype(int),
            "multiclass": np.digitize(score, [-1, 1]),
            "regression": 1000 + 50 * score,
        }[task]
        parts.append(world.part(name, found, labels.tolist(), classes))
    built = build(pipeline, *parts)
    return built, pipeline, read(parts[1], built.signature, pipeline)


@pytest.fixture(scope="module")
def binary(worlds: Any) -> tuple[Built, Any, Any]:
    return made(worlds(), "binary", decision={"abstain": [0.45, 0.55]})


def test_the_operators_that_every_backend_has(binary: Any) -> None:
    model = onnx.load_from_string(binary[0].model)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 20), ("ai.onnx.ml", 4)}
    assert model.ir_version <= 9
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
    assert [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input] == [
        ("numbers", 11),
        ("strings", 8),
    ]
    assert [value.name for value in model.graph.output] == ["probabilities", "decision"]
    onnx.checker.check_model(model, full_check=True)


def test_the_signature_says_what_goes_in_and_comes_out(binary: Any) -> None:
    signature = binary[0].signature
    assert signature.inputs.numbers == ("income", "age")  # as in the file
    assert signature.inputs.strings == ("note", "purpose", "owner")
    assert signature.classes == ("false", "true")
    assert {name: output.columns for name, output in signature.outputs.items()} == {
        "probabilities": 2,
        "decision": 1,
    }


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_learns_and_agrees_with_torch(world: Any, task: str) -> None:
    built, _, rows = made(
        world, task, trainer={"epochs": 12, "batch_size": 64, "optimizer": {"learning_rate": 1e-2}}
    )
    assert built.parity <= 1e-6
    answers = run(built.model, rows)
    if task == "regression":
        assert built.metrics["r2"] > 0.6
        assert set(answers) == {"value"}
        assert answers["value"].dtype == np.float32
        assert answers["value"].shape == (200, 1)
    else:
        assert built.metrics["auroc"] > 0.85
        assert answers["probabilities"].shape == (200, len(built.signature.classes))
        np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, atol=1e-6)
        assert set(answers["decision"][:, 0]) <= {*built.signature.classes, "abstain"}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_linear_model_is_linear(world: Any, task: str) -> None:
    built, _, _ = made(world, task, model={"type": "linear"})
    assert [node.op_type for node in onnx.load_from_string(built.model).graph.node].count("Gemm") == 1


def test_the_same_rows_in_any_batch(binary: Any) -> None:
    built, _, rows = binary
    runner = Runner(built.model)
    whole = runner(rows.numbers, rows.strings)
    for size in (1, 7, 64):
        parts = [
            runner(rows.numbers[at : at + size], rows.strings[at : at + size])
            for at in range(0, len(rows), size)
        ]
        np.testing.assert_allclose(
            np.concatenate([part["probabilities"] for part in parts]), whole["probabilities"], atol=1e-6
        )


def test_no_rows(binary: Any) -> None:
    answers = Runner(binary[0].model)(np.empty((0, 2)), np.empty((0, 3), dtype=object))
    assert answers["probabilities"].shape == (0, 2)
    assert answers["decision"].shape == (0, 1)


def test_a_large_batch(binary: Any) -> None:
    built, _, rows = binary
    many = np.tile(rows.numbers, (100, 1)), np.tile(rows.strings, (100, 1))
    assert np.isfinite(Runner(built.model)(*many)["probabilities"]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0])
@pytest.mark.parametrize("text", ["", "never seen", "\n\t ,.", "日本 🙂", "a" * 100_000])
def test_nothing_breaks_it(binary: Any, value: float, text: str) -> None:
    answers = Runner(binary[0].model)(np.full((2, 2), value), np.full((2, 3), text, dtype=object))
    assert np.isfinite(answers["probabilities"]).all()
    assert ((answers["probabilities"] >= 0) & (answers["probabilities"] <= 1)).all()


def test_only_numbers_and_only_words(world: Any) -> None:
    for fields in ({"age": "number"}, {"purpose": "category"}, {"note": "text"}):
        pipeline = world.pipeline(fields, {name: {} for name in fields}, trainer={"epochs": 1})
        parts = []
        for name, seed in (("train", 1), ("validation", 2)):
            found, score = columns(120, seed)
            parts.append(
                world.part(name, {key: found[key] for key in fields}, (score > 0).astype(int).tolist())
            )
        built = build(pipeline, *parts)
        named = [value.name for value in onnx.load_from_string(built.model).graph.input]
        assert named == (["numbers"] if "age" in fields else ["strings"])


def test_the_same_run_gives_the_same_bytes(world: Any) -> None:
    first, second = made(world, "binary")[0], made(world, "binary")[0]
    assert first.model == second.model
    assert first.profile == second.profile
    assert made(world, "binary", training={"seed": 8})[0].model != first.model


def test_a_graph_that_says_something_else_is_refused(world: Any, rows: Any) -> None:
    pipeline = world.pipeline({"x": "number"}, {"x": {}})
    named = signature(pipeline, ("false", "true"))
    train = rows([np.linspace(-1, 1, 50)])
    fitted = fit(pipeline, named, train)
    family = family_of(pipeline.model)
    network, other = (TrainedNetwork(Layers(Shape((), 1, 1)), "binary") for _ in range(2))
    expected = network.predict(transform(fitted, train, family.inputs))
    answers = run(compile_model(fitted, family, other, threshold=0.5), train)
    with pytest.raises(NotAlike, match="differs from the trained model") as caught:
        check_parity(expected, answers, spread=1)
    assert isinstance(caught.value, PenstockError)
    same = run(compile_model(fitted, family, network, threshold=0.5), train)
    np.testing.assert_allclose(expected, same["probabilities"], atol=1e-6)


def test_a_rare_word_or_category_stands_for_the_average_row(world: Any) -> None:
    """What training never saw does not meet untrained weights."""
    built, _pipeline, rows = made(world, "binary")
    runner = Runner(built.model)
    unknown = rows.strings.copy()
    unknown[:, 1] = "never seen"
    known = np.stack(
        [
            runner(rows.numbers, _with(rows.strings, 1, v))["probabilities"][:, 1]
            for v in ("home", "car", "日本", "other", "")
        ]
    )
    found = runner(rows.numbers, unknown)["probabilities"][:, 1]
    assert ((found >= known.min(axis=0) - 0.02) & (found <= known.max(axis=0) + 0.02)).all()


def _with(strings: Any, column: int, value: str) -> Any:
    changed = strings.copy()
    changed[:, column] = value
    return changed
