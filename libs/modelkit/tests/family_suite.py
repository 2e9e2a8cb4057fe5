"""Promises of every family: tests call it with a pipeline of the family and a folder to work in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import Built, build, finish, judged, prepare
from penstock.modelkit.family import Epoch, Prepared, Trained, family_of
from penstock.modelkit.features import transform
from penstock.modelkit.graph import Runner
from penstock.modelkit.metrics import of_split
from penstock.modelkit.model import TOLERANCE, run
from penstock.modelkit.rows import Rows

NUMBERS = ("amount", "since", "gap", "constant")
STRINGS = ("purpose", "owner")
WORDS = {"home": "a house, with garden", "car": "Car! fast", "日本": "日本の車 fast"}
FIELDS = dict.fromkeys(NUMBERS, "number") | {"purpose": "category", "owner": "boolean"}


def pipeline(
    model: dict[str, Any], target: str = "binary", text: dict[str, Any] | None = None, **sections: Any
) -> Pipeline:
    """`text`: how a field of texts enters, beside all others; without it there is none."""
    label = "number" if target == "regression" else "boolean" if target == "binary" else "category"
    fields = {name: {"type": kind} for name, kind in {**FIELDS, "y": label, "counts": "number"}.items()}
    if text is not None:
        fields["note"] = {"type": "text"}
        sections["features"] = {name: {"from": f"rows.{name}"} for name in FIELDS}
        sections["features"]["note"] = {"from": "rows.note", **text}
    source = {"entity": "row", "id": "id", "timestamp": "at", "fields": fields}
    return Pipeline.model_validate(
        {
            "version": 1,
            "pipeline": "small",
            "entities": {"row": {"key": "row_id"}},
            "sources": {"rows": source},
            "targets": {"y": {"from": "rows.y", "type": target}},
            "features": {name: {"from": f"rows.{name}"} for name in FIELDS},
            "model": model,
            **sections,
        }
    )


def parts(folder: Path, target: str = "binary") -> tuple[Path, Path]:
    """Amounts with cents, times in seconds, missing values, a constant; a bend and a jump to learn."""
    return _part(folder, "train", 500, 1, target), _part(folder, "validation", 150, 2, target)


def _part(folder: Path, name: str, count: int, seed: int, target: str) -> Path:
    random = np.random.default_rng(seed)
    amount = np.round(random.lognormal(6, 1.5, count), 2)
    since = 1.7e9 + random.integers(0, 30_000_000, count)
    gap = np.where(random.random(count) < 0.3, np.nan, random.normal(size=count))
    purpose = random.choice(["home", "car", "日本"], count, p=[0.6, 0.3, 0.1])
    score = np.log(amount) - 6 + 2 * (purpose == "car") + np.nan_to_num(gap, nan=1.5)
    score += 2 * (since > 1.715e9) + random.normal(0, 0.3, count)
    classes = {"binary": ["false", "true"], "multiclass": ["low", "mid", "high"]}.get(target, [])
    labels = {
        "binary": (score > 1.5).astype(int),
        "multiclass": np.digitize(score, [0.5, 2.5]),
        "regression": 1000 + 50 * score,
    }[target]
    table = pa.table(
        {
            "amount": amount,
            "since": since.astype(float),
            "gap": pa.array(gap, from_pandas=True),
            "constant": np.full(count, 3.0),
            "purpose": [None if random.random() < 0.1 else str(value) for value in purpose],
            "owner": random.choice(["true", "false"], count).tolist(),
            "note": [_note(str(each), row) for row, each in enumerate(purpose)],
            "__label": labels,
        }
    )
    path = folder / f"{name}.parquet"
    metadata = {"penstock": json.dumps({"classes": classes, "target": "y"})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def honours_weights(spec: Pipeline, folder: Path) -> None:
    """Half of the rows of both parts are labelled wrongly and count nothing: the model is as if they
    were not there. Raises AssertionError.
    """
    clean = parts(folder, spec.target.type)
    rows, told = prepare(spec, *clean).validation.rows, {}
    for name, counts in (("weighed", (0.0, 3.0)), ("alike", (3.0, 3.0))):
        files = []
        for file in clean:
            table = pq.read_table(file)
            wrong = np.arange(table.num_rows) % 2 == 0
            labels = np.where(wrong, 1 - table["__label"].to_numpy(), table["__label"].to_numpy())
            table = table.set_column(table.column_names.index("__label"), "__label", pa.array(labels))
            table = table.append_column("__weight", pa.array(np.where(wrong, *counts)))
            files.append(file.with_name(f"{name}-{file.name}"))
            pq.write_table(table, files[-1])
        weighed = Pipeline.model_validate(
            spec.model_dump(by_alias=True, exclude_unset=True)
            | {"training": {"sample_weight": "rows.counts"}}
        )
        try:
            answers = run(build(weighed, *files).model, rows)
            told[name] = of_split("binary", rows.labels, answers, 0.5)["auroc"]
        except Invalid:  # a detector finds nothing to detect among them
            told[name] = 0.5
    assert told["weighed"] > max(0.75, told["alike"] + 0.1), told


def _note(purpose: str, row: int) -> str:
    words = [WORDS[purpose], "the", f"n{row % 97}", ""]
    return " ".join(words[row % 4 :] + words[: row % 4]) if row % 11 else ""


def gives_intervals(spec: Pipeline, folder: Path) -> None:
    """They hold about as many true values as asked, and never cross. Raises AssertionError."""
    (name, target), *_ = spec.model_dump(by_alias=True, exclude_unset=True)["targets"].items()
    asked = Pipeline.model_validate(
        spec.model_dump(by_alias=True, exclude_unset=True)
        | {"targets": {name: target | {"quantiles": [0.1, 0.9]}}}
    )
    built = keeps_its_promises(asked, folder)
    assert 0.6 < built.metrics["coverage"] < 0.97, built.metrics
    assert 0 < built.metrics["interval_width"] < 400  # the values' own 0.1 and 0.9 quantiles: 290 apart
    ends = run(built.model, odd_rows())["interval"]
    assert (ends[:, 0] <= ends[:, 1]).all()


def odd_rows(strings: int = len(STRINGS)) -> Rows:
    """Rows that no training split holds, each beside the others."""
    numbers = [np.nan, np.inf, -np.inf, 0.0, 1e300, -1e300, 19.99, 1234567.89, 1.7e9, 1_715_000_000.0]
    values = ["", "never seen", "car", "日本", "true", "a" * 1000, "home", "\n", "🙂", "fast " * 700 + "车"]
    count = len(numbers)
    matrix = np.array([np.roll(numbers, shift) for shift in range(len(NUMBERS))]).T.copy()
    texts = np.array([np.roll(values, shift) for shift in range(strings)], dtype=object).T.copy()
    return Rows(matrix, texts, np.zeros(count), {})


class Killed(BaseException):
    pass


def keeps_its_promises(spec: Pipeline, folder: Path) -> Built:
    """Raises AssertionError for the first promise that the family breaks."""
    files = parts(folder, spec.target.type)
    prepared = prepare(spec, *files)
    model = family_of(spec.model).fit(spec, prepared)
    built = finish(spec, prepared, model)
    runner = Runner(built.model)
    _losses_are_plain(spec, built, prepared, runner)
    assert built.parity <= TOLERANCE
    _judged_alike(spec, built, prepared, model)
    _answers_alike(runner, spec, prepared, model)
    _goes_on(spec, files, folder, prepared, built)
    told = built.description
    assert all((told.kind, told.training, told.library))
    return built


def _losses_are_plain(spec: Pipeline, built: Built, prepared: Prepared, runner: Runner) -> None:
    """Those of the answers to both parts, whatever was added to them in training."""
    for name, part in (("train", prepared.train), ("validation", prepared.validation)):
        said, labels = run(runner, part.rows), part.rows.labels
        if spec.target.type == "regression":
            expected = np.mean((said["value"][:, 0] - labels) ** 2)
        else:
            truth = said["probabilities"][np.arange(len(labels)), labels].astype(np.float64)
            expected = -np.mean(np.log(np.maximum(truth, 2.3e-16)))
        assert np.isclose(built.metrics[f"{name}_loss"], expected, rtol=1e-6)


def _judged_alike(spec: Pipeline, built: Built, prepared: Prepared, model: Trained) -> None:
    """By the library as by the graph."""
    found = judged(spec, prepared, model)
    for name, value in found.metrics.items():
        assert np.isclose(value, built.metrics[name], rtol=1e-4, atol=1e-4), name
    assert found.metrics.keys() == built.metrics.keys() - {"threshold"}
    assert found.threshold is None or np.isclose(found.threshold, built.threshold, atol=1e-4)


def _answers_alike(runner: Runner, spec: Pipeline, prepared: Prepared, model: Trained) -> None:
    """Graph and library, on odd rows, one by one, together, and on none."""
    odd = odd_rows(len(prepared.signature.inputs.strings))
    outputs = [name for name in prepared.signature.outputs if name != "decision"]
    expected = model.predict(transform(prepared.preprocessing, odd, family_of(spec.model).inputs))
    answers = run(runner, odd)
    found = np.concatenate([answers[name] for name in outputs], axis=1)
    assert expected.dtype == np.float64
    assert expected.shape == found.shape
    assert np.isfinite(found).all()
    largest = np.abs(expected).max(axis=1, keepdims=True)  # of a row's value and interval
    unit = np.maximum(prepared.scale()[1], largest) if "value" in outputs else 1.0
    assert (np.abs(found - expected) / unit).max() <= TOLERANCE
    for row in range(len(odd)):
        said = runner(odd.numbers[row : row + 1], odd.strings[row : row + 1])
        one = np.concatenate([said[name] for name in outputs], axis=1)
        assert (np.abs(one - found[row]) / unit).max() <= TOLERANCE, "a row's answer is its own"
    assert len(runner(odd.numbers[:0], odd.strings[:0])[outputs[0]]) == 0


def _goes_on(
    spec: Pipeline, files: tuple[Path, Path], folder: Path, prepared: Prepared, whole: Built
) -> None:
    """Killed after its first epochs, a run ends as one that was not."""
    checkpoint, fit = folder / "checkpoint", family_of(spec.model).fit

    def kill_after(number: int) -> Callable[[Epoch], None]:
        def on_epoch(epoch: Epoch) -> None:
            if epoch.number == number:
                raise Killed

        return on_epoch

    for moment in (1, 2):
        try:
            fit(spec, prepared, checkpoint=checkpoint, on_epoch=kill_after(moment))
            raise AssertionError("every epoch is told")
        except Killed:
            assert checkpoint.exists(), "an epoch is kept before it is told"
    told: list[int] = []
    resumed = build(spec, *files, checkpoint=checkpoint, on_epoch=lambda epoch: told.append(epoch.number))
    assert told == [epoch.number for epoch in whole.history], "epochs from before a kill are told again"
    assert resumed.weights == whole.weights, "a seed decides everything"
    assert resumed.model == whole.model
    other = spec.trainer.model_copy(update={"epochs": spec.trainer.epochs + 1})
    try:
        fit(spec.model_copy(update={"trainer": other}), prepared, checkpoint=checkpoint)
        raise AssertionError("another run's checkpoint is refused")
    except Conflict:
        pass
