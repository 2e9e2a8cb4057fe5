"""Boosted trees: the graph against LightGBM, what missing means, what a constraint keeps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from family_suite import parts, pipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import BY_ROWS, planned
from penstock.modelkit import boosting, tree_rows
from penstock.modelkit.build import Built, build, finish, prepare
from penstock.modelkit.families import boosted_trees
from penstock.modelkit.family import Epoch, Prepared, Trained, family_of
from penstock.modelkit.features import transform
from penstock.modelkit.graph import DOUBLE, FLOAT, Graph, Runner
from penstock.modelkit.model import TOLERANCE, run
from penstock.modelkit.rows import Rows, read
from penstock.modelkit.trees import ZERO, Columns, compile_trees, read_trees

CITIES = [f"city {number}" for number in range(60)]  # more than are split one against the others
Made = tuple[Pipeline, Prepared, Trained, Built]


def made(spec: Pipeline, files: tuple[Path, Path]) -> Made:
    prepared = prepare(spec, *files)
    model = family_of(spec.model).fit(spec, prepared)
    return spec, prepared, model, finish(spec, prepared, model)


def trees(world: Any, count: int = 1500, *, target: str = "binary", **model: Any) -> Made:
    """Amounts with cents, times in seconds, a number with gaps, few and many categories."""
    spec = world.pipeline(
        {"amount": "number", "since": "number", "gap": "number", "kind": "category", "city": "category"},
        target={"type": target},
        model={"type": "boosted_trees", "max_cat_to_onehot": 32, **model},
        trainer={"epochs": 10},
    )
    files = []
    for name, seed, rows in (("train", 1, count), ("validation", 2, 300)):
        random = np.random.default_rng(seed)
        amount = np.round(random.uniform(0, 1e6, rows), 2)
        since = 1.7e9 + random.integers(0, 30_000_000, rows)
        gap = np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows))
        kind = random.choice(["a", "b", "c"], rows)
        city = random.choice(60, rows)
        score = np.sin(amount / 3e4) + np.sin(since / 3e6) + np.nan_to_num(gap, nan=1.0)
        score += (kind == "b") + 2.0 * (city % 7 < 3) + random.normal(0, 0.3, rows)
        labels = {
            "binary": (score > 1.5).astype(int),
            "multiclass": np.digitize(score, [1, 2.5]),
            "regression": 1e6 + 1e3 * score,
        }[target]
        columns = {
            "amount": amount,
            "since": since,
            "gap": [None if np.isnan(value) else value for value in gap],
            "kind": kind,
            "city": [CITIES[at] for at in city],
        }
        classes = {"binary": ("false", "true"), "multiclass": ("low", "mid", "high")}.get(target, ())
        files.append(world.part(name, columns, labels, classes))
    return made(spec, (files[0], files[1]))


runner = lru_cache(maxsize=1)(Runner)  # one row of a test's takes less than to load the graph


def answers(of: Made, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """LightGBM's, and the graph's."""
    spec, prepared, model, _ = of
    features = transform(prepared.preprocessing, rows, family_of(spec.model).inputs)
    return model.predict(features), of_graph(of, rows)


def of_graph(of: Made, rows: Rows) -> np.ndarray:
    spec, _, _, built = of
    output = "value" if spec.target.type == "regression" else "probabilities"
    found: np.ndarray = runner(built.model)(rows.numbers, rows.strings)[output]
    return found


def distance(of: Made, expected: np.ndarray, found: np.ndarray) -> float:
    """The greatest, of values in units of their scale."""
    unit = np.maximum(of[1].scale()[1], np.abs(expected)) if found.shape[1] == 1 else 1.0
    return float((np.abs(expected - found) / unit).max(initial=0.0))


@pytest.fixture(scope="module")
def usual(worlds: Any) -> Made:
    return trees(worlds())


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression"])
def odd(request: pytest.FixtureRequest, worlds: Any, usual: Made) -> Made:
    return usual if request.param == "binary" else trees(worlds(), target=request.param)


def test_sets_of_categories_and_single_ones_are_both_in_it(odd: Made) -> None:
    members = [len(one) for tree in odd[2].trees for one in tree.sets]  # type: ignore[attr-defined]
    assert members.count(1) > 5
    assert max(members) > 1


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_graph_says_what_lightgbm_says(odd: Made, data: st.DataObject) -> None:
    thresholds = np.unique(
        np.concatenate([tree.thresholds for tree in odd[2].trees])  # type: ignore[attr-defined]
    ).tolist()
    beside = st.sampled_from(thresholds).flatmap(
        lambda at: st.sampled_from([at, float(np.nextafter(at, np.inf)), float(np.nextafter(at, -np.inf))])
    )
    cents = st.integers(0, 10**8).map(lambda amount: amount / 100)
    number = st.one_of(
        beside, cents, st.floats(width=64), st.integers(1_700_000_000, 1_730_000_000).map(float)
    )
    text = st.one_of(st.sampled_from(["", "a", "b", *CITIES]), st.text(max_size=5))
    row = st.tuples(st.tuples(number, number, number), st.tuples(text, text))
    drawn = data.draw(st.lists(row, max_size=20))
    numbers = np.array([one for one, _ in drawn], dtype=np.float64).reshape(len(drawn), 3)
    strings = np.array([two for _, two in drawn], dtype=object).reshape(len(drawn), 2)
    rows = Rows(numbers, strings, np.zeros(len(drawn)), {})
    expected, found = answers(odd, rows)
    assert expected.shape == found.shape
    assert distance(odd, expected, found) <= TOLERANCE
    for at in range(len(drawn)):
        one = Rows(numbers[at : at + 1], strings[at : at + 1], np.zeros(1), {})
        assert np.array_equal(of_graph(odd, one)[0], found[at]), "a row's answer is its own"


def test_what_is_all_but_zero_falls_where_zero_does(odd: Made) -> None:
    assert any((tree.thresholds == -ZERO).any() for tree in odd[2].trees)  # type: ignore[attr-defined]
    beside = [np.nextafter(at, to) for at in (-ZERO, ZERO) for to in (-np.inf, 0.0, np.inf)]
    gaps = np.array([*beside, -ZERO, ZERO, 0.0, -0.0])
    numbers = np.column_stack([np.full(len(gaps), 1.98), np.zeros(len(gaps)), gaps])
    strings = np.full((len(gaps), 2), "", dtype=object)
    expected, found = answers(odd, Rows(numbers, strings, np.zeros(len(gaps)), {}))
    assert distance(odd, expected, found) <= TOLERANCE


def test_amounts_with_cents_fall_on_their_own_side(world: Any) -> None:
    """Thresholds in single precision were wrong on one row in twelve."""
    spec = world.pipeline(
        {"amount": "number"}, model={"type": "boosted_trees", "max_bin": 16_383, "num_leaves": 63}
    )
    random = np.random.default_rng(0)
    amount = np.round(random.uniform(0, 1e6, 5000), 2)
    labels = (np.sin(amount / 3e4) + random.normal(0, 0.5, len(amount)) > 0).astype(int)
    files = (
        world.part("train", {"amount": amount[:4000]}, labels[:4000]),
        world.part("validation", {"amount": amount[4000:]}, labels[4000:]),
    )
    of = made(spec, files)
    edges = np.unique(np.concatenate([tree.thresholds for tree in of[2].trees]))  # type: ignore[attr-defined]
    numbers = np.concatenate([edges, np.nextafter(edges, np.inf)])[:, None]
    expected, found = answers(
        of, Rows(numbers, np.empty((len(numbers), 0), object), np.zeros(len(numbers)), {})
    )
    assert np.abs(expected - found).max() <= TOLERANCE
    single = answers(
        of,
        Rows(
            numbers.astype(np.float32).astype(np.float64),
            np.empty((len(numbers), 0), object),
            np.zeros(len(numbers)),
            {},
        ),
    )[1]
    assert np.abs(expected - single).max() > 0.01


def test_missing_means_the_median_where_training_had_none_missing(usual: Made) -> None:
    median = usual[1].preprocessing.numbers[0].fill
    strings = np.array([["a", CITIES[0]]] * 4, dtype=object)
    numbers = np.array([[value, 1.71e9, 0.5] for value in (np.nan, np.inf, -np.inf, median)])
    found = answers(usual, Rows(numbers, strings, np.zeros(4), {}))[1]
    assert (found == found[3]).all()


def test_missing_goes_its_own_way_where_training_had_some(usual: Made) -> None:
    strings = np.array([["a", CITIES[0]]] * 3, dtype=object)
    numbers = np.array([[5e5, 1.71e9, value] for value in (np.nan, 0.0, 1.0)])
    missing, none, one = answers(usual, Rows(numbers, strings, np.zeros(3), {}))[1][:, 1]
    assert abs(missing - one) < abs(none - one), "a gap counted as 1 in training"


def test_lightgbm_takes_what_it_never_saw_missing_for_0_and_so_do_the_nodes() -> None:
    """A column whose few gaps no bin was made of."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(500, 2))
    model = lightgbm.train(
        {"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(matrix, matrix[:, 0] - matrix[:, 1]), 20
    )
    matrix[::3, 0] = matrix[::5, 1] = np.nan
    graph = Graph()
    numbers = graph.input("numbers", DOUBLE, ["N", 2])
    score = compile_trees(graph, read_trees(model.model_to_string()), Columns(2, ()), numbers, None)
    graph.output(score, "value", FLOAT, ["N", 1])
    rows = Rows(matrix, np.empty((500, 0), object), np.zeros(500), {})
    found = run(graph.build("trees"), rows)["value"][:, 0]
    assert np.abs(found - model.predict(matrix)).max() <= TOLERANCE


def test_names_of_nodes_are_unique(odd: Made) -> None:
    """ONNX Runtime refuses a graph otherwise."""
    import onnx

    names = [node.name for node in onnx.load_model_from_string(odd[3].model).graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names


@pytest.mark.parametrize("target", ["binary", "regression"])
def test_a_monotone_constraint_holds_for_every_row(tmp_path: Path, target: str) -> None:
    """Against what the data say of `gap`, and with what they say of `amount`."""
    held = {"amount": "increasing", "gap": "decreasing"}
    free, kept = (
        build(pipeline({"type": "boosted_trees", **model}, target), *parts(tmp_path, target))
        for model in ({}, {"monotone": held})
    )
    spec = pipeline({"type": "boosted_trees"}, target)
    rows = read(tmp_path / "validation.parquet", kept.signature, spec)

    def steps(built: Built, column: int, values: np.ndarray) -> np.ndarray:
        """Rises from each value to the next, by row."""
        output = "value" if target == "regression" else "probabilities"
        found = []
        for value in values:
            numbers = rows.numbers.copy()
            numbers[:, column] = value
            answer = runner(built.model)(numbers, rows.strings)[output][:, -1]
            found.append(answer.astype(np.float64))
        return np.diff(np.array(found), axis=0)

    amounts, gaps = np.geomspace(1, 1e5, 80), np.linspace(-3, 3, 80)
    slack = 1e-6 if target == "binary" else 1e-3  # single precision of probabilities, of values of 1,000
    assert steps(kept, 0, amounts).min() >= -slack
    assert steps(kept, 2, gaps).max() <= slack
    assert steps(free, 2, gaps).max() > 100 * slack, "free trees follow the data"
    assert steps(kept, 0, amounts).max() > 100 * slack
    assert "never falling with `amount`, never rising with `gap`" in kept.description.kind


def test_classes_may_count_alike(world: Any) -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=3000)
    labels = (x + random.normal(size=3000) > 2).astype(int)
    files = (
        world.part("train", {"x": x[:2000]}, labels[:2000]),
        world.part("validation", {"x": x[2000:]}, labels[2000:]),
    )
    means = {}
    for weights in ("none", "balanced"):
        spec = world.pipeline(
            {"x": "number"}, model={"type": "boosted_trees"}, trainer={"class_weights": weights}
        )
        built = build(spec, *files)
        means[weights] = run(built.model, read(files[1], built.signature, spec))["probabilities"][:, 1].mean()
    assert means["none"] == pytest.approx(labels.mean(), abs=0.03)
    assert means["balanced"] > 2 * means["none"]


def test_where_nothing_divides_the_rows_the_key_is_named(world: Any) -> None:
    files = [
        world.part(name, {"x": [3.0] * 60, "kind": ["a"] * 60}, [0, 1] * 30)
        for name in ("train", "validation")
    ]
    spec = world.pipeline({"x": "number", "kind": "category"}, model={"type": "boosted_trees"})
    with pytest.raises(Invalid, match="no feature divides the 60 training rows") as caught:
        build(spec, *files)
    assert caught.value.where == "model.min_data_in_leaf"


def test_a_few_rows_are_divided_where_the_file_leaves_the_leaves_open(world: Any) -> None:
    """LightGBM's 20 rows in a leaf leave 24 rows whole."""
    x = np.arange(24.0)
    files = [world.part(name, {"x": x}, (x > 11).astype(int)) for name in ("train", "validation")]
    model = {"type": "boosted_trees"}
    fixed, by_rows = (world.pipeline({"x": "number"}, model=model, defaults=n) for n in (1, BY_ROWS))
    with pytest.raises(Invalid, match="no feature divides"):
        build(planned(fixed, 24).pipeline, *files)
    assert build(planned(by_rows, 24).pipeline, *files).metrics["auroc"] > 0.9


def test_training_ends_where_no_split_helps_and_goes_on_to_the_same_end(world: Any, tmp_path: Path) -> None:
    """One number with two values: a few rounds, and leaves fit them."""
    x = [0.0, 1.0] * 60
    files = [world.part(name, {"x": x}, [0, 1] * 60) for name in ("train", "validation")]
    spec = world.pipeline(
        {"x": "number"},
        model={"type": "boosted_trees", "learning_rate": 1, "lambda_l2": 0, "rounds_per_epoch": 7},
        trainer={"epochs": 500},
    )
    whole = build(spec, *files)
    assert len(whole.history) < 100
    assert all(
        epoch.rows == 120 and epoch.step_s * 7 == pytest.approx(epoch.took_s) for epoch in whole.history
    )
    assert sum(epoch.took_s for epoch in whole.history) == pytest.approx(whole.history[-1].elapsed_s)
    told: list[int] = []
    for _ in range(2):
        told.clear()
        again = build(
            spec,
            *files,
            checkpoint=tmp_path / "checkpoint",
            on_epoch=lambda epoch: told.append(epoch.number),
        )
        assert again.weights == whole.weights
        assert len(told) == len(whole.history)


def test_rows_that_are_cut_as_they_are_asked_for_give_the_same_trees(
    odd: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a run that was killed goes on."""
    spec, prepared, model, _ = odd
    monkeypatch.setattr(boosted_trees, "IN_MEMORY", 0)
    monkeypatch.setattr(tree_rows, "CHUNK", 100)
    monkeypatch.setattr(tree_rows.TreeRows, "batch_size", 100)
    cuts: list[Any] = []
    cut = tree_rows.TreeRows.__getitem__

    def counted(rows: tree_rows.TreeRows, which: Any) -> Any:
        cuts.append(which)
        return cut(rows, which)

    monkeypatch.setattr(tree_rows.TreeRows, "__getitem__", counted)

    def killed(epoch: Epoch) -> None:
        if epoch.number == 3:
            raise KeyboardInterrupt

    family = family_of(spec.model)
    with pytest.raises(KeyboardInterrupt):
        family.fit(spec, prepared, checkpoint=tmp_path / "killed", on_epoch=killed)
    assert cuts
    again = family.fit(spec, prepared, checkpoint=tmp_path / "killed")
    whole = family.fit(spec, prepared)
    assert again.digest() == whole.digest() == model.digest()


def test_bins_are_made_from_the_same_rows_however_they_come() -> None:
    random = np.random.default_rng(5)
    matrix = np.round(random.normal(size=(4000, 3)), 2)
    labels = (matrix.sum(axis=1) > 0).astype(int)
    parameters = {"objective": "binary", "learning_rate": 0.1, "bin_construct_sample_cnt": 300, "seed": 7}
    plan = boosting.Plan("binary", parameters, (), 3, 2, None)
    part = boosting.Split(matrix[:500], labels[:500])
    ways = (matrix, tree_rows.TreeRows(len(matrix), lambda rows: matrix[rows]))
    whole, cut = (boosting.boost(plan, boosting.Split(way, labels), part)[0] for way in ways)
    assert cut == whole


def test_importance_is_the_gain_by_feature(usual: Made) -> None:
    shares = usual[3].description.importance
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares) == ["amount", "since", "gap", "kind", "city"]
    assert min(shares.values()) > 0


def test_a_training_without_a_checkpoint_writes_each_tree_twice(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has grown, and in the end: as often as there are epochs would take longer than growing it."""
    write, written = lightgbm.Booster.model_to_string, 0

    def count(*model: Any, **told: Any) -> str:
        nonlocal written
        text = write(*model, **told)
        written += text.count("\nTree=")
        return text

    monkeypatch.setattr(lightgbm.Booster, "model_to_string", count)
    spec, prepared, *_ = trees(world)
    written = 0
    model = family_of(spec.model).fit(spec, prepared)
    assert len(model.history) == 10
    assert written <= 2 * len(model.history) * 10


def test_trees_that_grow_without_end_are_a_sentence(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting, "LARGEST", 100_000)
    with pytest.raises(Invalid, match=r"after \d+ epochs the trees are a model of") as caught:
        trees(world)
    assert caught.value.where == "trainer.epochs"
