"""What a trainer is told of its training set, and what goes into the package."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.contracts.dataplane import MAX_NUMBER
from penstock.contracts.errors import Invalid
from penstock.modelkit import features
from penstock.modelkit.build import Built, build, judged
from penstock.modelkit.family import Part
from penstock.modelkit.graph import Runner
from penstock.modelkit.rows import Rows
from penstock.packages.parts import NumberProfile, StringProfile

FIELDS = {"x": "number", "c": "category", "t": "text"}


def columns(count: int, seed: int = 0) -> dict[str, list[Any]]:
    random = np.random.default_rng(seed)
    return {
        "x": [float(value) if random.random() > 0.2 else None for value in random.normal(size=count)],
        "c": [*(f"id-{row}" for row in range(3)), *random.choice(["a", "b"], count - 3).tolist()],
        "t": [f"good word-{row}" if row % 2 else "bad" for row in range(count)],
    }


def labels(count: int) -> list[int]:
    return [row % 2 for row in range(count)]


def made(
    world: Any,
    train: list[int],
    validation: list[int],
    classes: tuple[str, ...] = ("false", "true"),
    **sections: Any,
) -> Built:
    pipeline = world.pipeline(FIELDS, {name: {} for name in FIELDS}, **{"trainer": {"epochs": 1}, **sections})
    return build(
        pipeline,
        world.part("train", columns(len(train)), train, classes),
        world.part("validation", columns(len(validation), 1), validation, classes),
    )


@pytest.mark.parametrize(
    ("train", "validation", "said"),
    [
        (
            [1] * 40,
            labels(20),
            (
                "targets.y: the training split has one class only: `true` in all 40 rows. Publish labels of"
                " the other class"
            ),
        ),
        (
            labels(40),
            [0] * 20,
            (
                "targets.y: the validation split has one class only: `false` in all 20 rows. Publish labels"
                " of the other"
            ),
        ),
        (
            labels(10),
            labels(20),
            (
                "split.parts.train: the training split has 10 rows; at least 20 are needed. Publish more"
                " labelled events"
            ),
        ),
        (
            labels(40),
            labels(4),
            "split.parts.validation: the validation split has 4 rows; at least 5 are needed.",
        ),
    ],
)
def test_nothing_to_learn_is_a_sentence(
    world: Any, train: list[int], validation: list[int], said: str
) -> None:
    with pytest.raises(Invalid) as caught:
        made(world, train, validation)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("target", "where"), [({"type": "regression"}, "targets.y"), ({"type": "binary"}, "features.x")]
)
@pytest.mark.parametrize("sentinel", [1.7976931348623157e308, -1e200])
def test_a_number_whose_square_is_none_is_a_sentence_before_the_first_epoch(
    world: Any, target: dict[str, str], where: str, sentinel: float
) -> None:
    numbers = [sentinel if row == 7 else row / 40 for row in range(40)]
    pipeline = world.pipeline({"x": "number"}, {"x": {}}, target)
    regression = target["type"] == "regression"
    part = world.part(
        "part",
        {"x": labels(40) if regression else numbers},
        numbers if regression else labels(40),
        () if regression else ("false", "true"),
    )
    epochs: list[Any] = []
    with pytest.raises(
        Invalid, match=rf"^{where}: the training split has a number .* beyond ±1e\+30: .* Start a new run"
    ):
        build(pipeline, part, part, on_epoch=epochs.append)
    assert epochs == []


@pytest.mark.parametrize("scale", [MAX_NUMBER, 1e-100, 5e-324])
def test_a_target_of_any_size_that_ingest_accepts_is_learned(world: Any, scale: float) -> None:
    pipeline = world.pipeline({"x": "number"}, {"x": {}}, {"type": "regression"}, trainer={"epochs": 2})
    x = np.random.default_rng(3).uniform(-1, 1, 60)
    part = world.part("part", {"x": x.tolist()}, (x * scale).tolist(), ())
    assert all(map(math.isfinite, build(pipeline, part, part).metrics.values()))


def test_a_class_without_a_row_is_a_sentence(world: Any) -> None:
    with pytest.raises(Invalid, match="the training split has no row of class `blue`"):
        made(world, labels(40), labels(20), ("red", "green", "blue"), target={"type": "multiclass"})


def test_a_column_that_is_not_there_is_a_sentence(world: Any) -> None:
    pipeline = world.pipeline({**FIELDS, "z": "number"}, {"x": {}, "z": {}})
    part = world.part("train", columns(40), labels(40))
    with pytest.raises(
        Invalid, match=r"train.parquet: the training set has no column `z`. Create the training set again"
    ):
        build(pipeline, part, part)


@pytest.fixture(scope="module")
def built(worlds: Any) -> Built:
    return made(worlds(), labels(400), labels(100))


def test_the_profile_says_what_training_looked_like(built: Built) -> None:
    x, c, t = (built.profile.features[name] for name in ("x", "c", "t"))
    assert isinstance(x, NumberProfile)
    assert isinstance(c, StringProfile)
    assert isinstance(t, StringProfile)
    assert x.rows == 400
    assert sum(x.counts) + x.missing == 400
    assert len(x.counts) == len(x.edges) + 1
    assert set(c.values) == {"a", "b"}  # what one row alone has is not shown
    assert c.other == 3
    assert t.values == {}
    assert t.other == 400


def test_probes_are_nobodys_rows_and_answer_as_expected(built: Built) -> None:
    probes = built.profile.probes
    assert not any("id-" in value or "word-" in value for row in probes.strings for value in row)
    assert all(value is None for value in probes.numbers[-2])
    assert set(probes.strings[-2]) == {""}
    numbers = np.array(
        [[np.nan if value is None else value for value in row] for row in probes.numbers], dtype=np.float64
    )
    answers = Runner(built.model)(numbers, np.array(probes.strings, dtype=object))
    np.testing.assert_allclose(answers["probabilities"], probes.outputs["probabilities"], atol=1e-6)
    assert answers["decision"].tolist() == [list(row) for row in probes.outputs["decision"]]


def test_extremes_of_personal_fields_are_not_shown(world: Any) -> None:
    pipeline = world.pipeline(FIELDS, {"x": {}}, trainer={"epochs": 1})
    people = pipeline.model_copy(
        update={
            "sources": {
                "rows": (
                    pipeline.sources["rows"].model_copy(
                        update={
                            "fields": {
                                **pipeline.sources["rows"].fields,
                                "x": pipeline.field("rows.x").model_copy(update={"personal": True}),
                            }
                        }
                    )
                )
            }
        }
    )
    parts = (
        world.part("train", columns(200), labels(200)),
        world.part("validation", columns(50, 1), labels(50)),
    )
    for spec, shown in ((pipeline, True), (people, False)):
        profile = build(spec, *parts).profile.features["x"]
        assert isinstance(profile, NumberProfile)
        assert (profile.maximum is not None) is shown


def test_a_model_without_a_graph_is_judged_in_a_graphs_precision_and_piece_by_piece(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two scores that single precision holds for one there is no threshold."""
    monkeypatch.setattr(features, "PIECE", 8)
    scores, asked = np.repeat([0.3 + 1e-10, 0.3], 10), []

    def predict(inputs: dict[str, Any]) -> Any:
        asked.append(len(inputs["scores"]))
        return np.stack([1 - inputs["scores"], inputs["scores"]], axis=1)

    rows = Rows(np.empty((20, 0)), np.empty((20, 0), object), np.repeat([1, 0], 10), {})
    part = Part(rows, {"scores": scores})
    prepared: Any = SimpleNamespace(train=part, validation=part)
    model: Any = SimpleNamespace(predict=predict)
    pipeline = world.pipeline(FIELDS, {"x": {}}, decision={"threshold": {"choose": "max_f1"}})
    assert judged(pipeline, prepared, model).metrics["f1"] == pytest.approx(2 / 3), "all are positive"
    assert asked == [8, 8, 4] * 2


def test_epochs_and_stages_are_told(world: Any) -> None:
    pipeline = world.pipeline(FIELDS, {"x": {}}, trainer={"epochs": 3})
    told: list[Any] = []
    build(
        pipeline,
        world.part("train", columns(60), labels(60)),
        world.part("validation", columns(30, 1), labels(30)),
        on_epoch=lambda epoch: told.append((epoch.number, epoch.epochs, epoch.metric)),
        on_stage=told.append,
    )
    assert told == ["fitting", "training", (1, 3, "auroc"), (2, 3, "auroc"), (3, 3, "auroc"), "packaging"]
