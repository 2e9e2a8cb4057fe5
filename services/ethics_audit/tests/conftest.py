"""A small real world: a graph, a package, a split, keys, artifacts; made without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from penstock.contracts.events import Artifact, ModelVersion, ModelVersionRegistered, StudyReference
from penstock.contracts.pipeline import Pipeline
from penstock.packages import archive, signing
from penstock.packages.keys import Keys
from penstock.packages.parts import (
    CurvePoint,
    Curves,
    Inputs,
    ModelSignature,
    NumberProfile,
    Origin,
    Output,
    Probes,
    Profile,
    StringProfile,
    TargetSignature,
    TrainingPace,
)
from penstock.runtime.artifacts import Artifacts
from penstock.testing import lending, packages
from penstock.testing.lending import NOW

CLASSES = {"binary": ("false", "true"), "multiclass": ("a", "b", "c"), "regression": ()}
PACE = TrainingPace(
    workers=2,
    rows_per_s=41_000.4,
    step_s=0.0023,
    data_share=0.61,
    communication_share=0.04,
    compute_share=0.35,
    gpu_share=0.3,
    gpu_bytes=2_340_000_000,
    bottleneck="waits for data 61% of the time",
)
GATES = [
    {"metric": "auroc", "at_least": 0.6},
    {"metric": "equalized_odds_difference", "by": "sex", "at_most": 0.15, "on_fail": "review"},
]


def graph(task: str, opset: int = 20, spoilt: Sequence[onnx.NodeProto] = ()) -> bytes:
    """x in `numbers`, a word in `strings`: score = 2 x + what the word is worth. `spoilt` are nodes
    that make of `x` another, `slope`.
    """
    nodes = [
        h.make_node("IsNaN", ["numbers"], ["missing"]),
        h.make_node("Where", ["missing", "zero", "numbers"], ["filled"]),
        h.make_node("Cast", ["filled"], ["x"], to=T.FLOAT),
        h.make_node(
            "LabelEncoder",
            ["strings"],
            ["worth"],
            domain="ai.onnx.ml",
            keys_strings=["car", "home"],
            values_floats=[-0.5, 0.5],
            default_float=0.0,
        ),
        *(spoilt or [h.make_node("Mul", ["x", "two"], ["slope"])]),
        h.make_node("Add", ["slope", "worth"], ["score"]),
    ]
    constants = [h.make_tensor("zero", T.DOUBLE, [], [0.0]), h.make_tensor("two", T.FLOAT, [], [2.0])]
    outputs = []
    if task == "regression":
        nodes.append(h.make_node("Identity", ["score"], ["value"]))
        outputs.append(h.make_tensor_value_info("value", T.FLOAT, ["N", 1]))
    else:
        k = len(CLASSES[task])
        weights = [-0.5, 0.5] if k == 2 else [-1.0, 0.0, 1.0]
        nodes += [
            h.make_node("MatMul", ["score", "weights"], ["logits"]),
            h.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            h.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=1),
            h.make_node("Gather", ["names", "best"], ["decision"], axis=0),
        ]
        constants += [
            h.make_tensor("weights", T.FLOAT, [1, k], weights),
            h.make_tensor("names", T.STRING, [k], [c.encode() for c in CLASSES[task]]),
        ]
        outputs += [
            h.make_tensor_value_info("probabilities", T.FLOAT, ["N", k]),
            h.make_tensor_value_info("decision", T.STRING, ["N", 1]),
        ]
    inputs = [
        h.make_tensor_value_info("numbers", T.DOUBLE, ["N", 1]),
        h.make_tensor_value_info("strings", T.STRING, ["N", 1]),
    ]
    model = h.make_model(
        h.make_graph(nodes, "small", inputs, outputs, constants),
        opset_imports=[h.make_opsetid("", opset), h.make_opsetid("ai.onnx.ml", 4)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclass
class World:
    """Where a version lies: artifacts, keys, folder."""

    folder: Path
    artifacts: Artifacts
    keys: Keys

    def graph(self, spoilt: Sequence[onnx.NodeProto] = ()) -> bytes:
        return graph("binary", spoilt=spoilt)

    def pipeline(self, task: str, gates: list[dict[str, Any]], min_rows: int = 30) -> Pipeline:
        kind = {"binary": "boolean", "multiclass": "category", "regression": "number"}[task]
        applications = lending.spec()["sources"]["applications"]
        applications["fields"] = {
            "x": {"type": "number"},
            "word": {"type": "category"},
            "outcome": {"type": kind},
            "sex": {"type": "category", "protected": True, "personal": True},
            "age": {"type": "number", "protected": True, "personal": True},
        }
        return lending.pipeline(
            sources={"applications": applications},
            features={"x": {"from": "applications.x"}, "word": {"from": "applications.word"}},
            targets={"outcome": {"from": "applications.outcome", "type": task}},
            audit={
                "groups": {"sex": {"min_rows": min_rows}, "age": {"bins": [40], "min_rows": min_rows}},
                "gates": gates,
                "resamples": 200,
            },
        )

    def split(self, task: str, rows: int, gap: float, seed: int = 1, part: str = "audit") -> Artifact:
        """Labels follow the model's own score; in group `f` less so, by `gap`."""
        generator = np.random.default_rng(seed)
        sex = np.where(generator.random(rows) < 0.4, "f", "m")
        x, word = generator.normal(size=rows), generator.choice(["car", "home", "boat"], rows)
        score = 2 * x + np.select([word == "car", word == "home"], [-0.5, 0.5], 0.0)
        seen = np.where((sex == "f") & (generator.random(rows) < gap), generator.normal(size=rows), score)
        if task == "binary":
            label: Any = (generator.random(rows) < 1 / (1 + np.exp(-seen))).astype(np.int64)
        elif task == "multiclass":
            odds = np.exp(np.outer(seen, [-1.0, 0.0, 1.0]))
            label = (
                (generator.random((rows, 1)) > np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1))
                .sum(axis=1)
                .astype(np.int64)
            )
        else:
            label = seen + generator.normal(0, 0.5, rows)
        table = pa.table(
            {
                "__entity": [f"secret-person-{part}-{n}" for n in range(rows)],
                "__id": [f"secret-event-{part}-{n}" for n in range(rows)],
                "__time": pa.array([NOW] * rows, pa.timestamp("us", tz="UTC")),
                "x": pa.array(
                    [None if n % 50 == 0 else float(value) for n, value in enumerate(x)], pa.float64()
                ),
                "word": pa.array([None if n % 70 == 0 else str(value) for n, value in enumerate(word)]),
                "__label": label,
                "__group_sex": sex.tolist(),
                "__group_age": generator.integers(18, 80, rows).astype(float),
            }
        )
        path = lending.write_part(self.folder / f"{part}.parquet", table, CLASSES[task])
        return self.artifacts.put_file(f"training-sets/T1/{part}.parquet", path)

    def version(
        self,
        task: str = "binary",
        *,
        rows: int = 1500,
        gap: float = 0.0,
        gates: list[dict[str, Any]] | None = None,
        card: str = "# loans\n",
        baselines: Mapping[str, bytes | None] = MappingProxyType({}),
        study: StudyReference | None = None,
        model: bytes | None = None,
        origin: Origin | None = None,
        copied: bool = False,
    ) -> ModelVersion:
        """A signed package of a real graph over a real split. `copied`: its rows are those of the training
        part, too, under other ids.
        """
        training_set = lending.training_set(
            audit=self.split(task, rows, gap),
            train=self.split(task, rows, gap, seed=1 if copied else 2, part="train"),
            rows={"train": 2 * rows, "validation": rows // 3, "audit": rows},
        )
        number = next(self._numbers)
        directory = self.folder / f"package-{number}"
        classes = CLASSES[task]
        if classes:
            outputs = {
                "probabilities": Output(datatype="FP32", columns=len(classes)),
                "decision": Output(datatype="BYTES", columns=1),
            }
            expected: dict[str, Any] = {
                "probabilities": ((1.0 / len(classes),) * len(classes),),
                "decision": ((classes[0],),),
            }
        else:
            outputs, expected = {"value": Output(datatype="FP32", columns=1)}, {"value": ((0.0,),)}
        points = [
            CurvePoint(
                epoch=n,
                train_loss=1 / n,
                validation_loss=1.1 / n,
                validation_metric=0.8,
                learning_rate=0.1,
                elapsed_s=n,
            )
            for n in (1, 2, 3)
        ]
        digest = packages.write_package(
            directory,
            model=model or graph(task),
            pipeline=self.pipeline(task, GATES if gates is None else gates),
            signature=ModelSignature(
                inputs=Inputs(numbers=("x",), strings=("word",)),
                outputs=outputs,
                classes=classes,
                target=TargetSignature(name="outcome", type=task),  # type: ignore[arg-type]
            ),
            metrics={"auroc": 0.8},
            training_set=training_set,
            profile=Profile(
                features={"x": NumberProfile(rows=9, missing=0), "word": StringProfile(rows=9, missing=0)},
                probes=Probes(numbers=((None,),), strings=(("",),), outputs=expected),
            ),
            curves=Curves(metric="auroc", points=tuple(points), pace=PACE),
            card=card,
            study=study,
            origin=origin,
            baselines={name: given or graph(task) for name, given in baselines.items()},
        )
        signature = self.folder / f"model-{number}.sig"
        signing.sign_package(directory, signature, self.keys.signer("registry"))
        tar = self.folder / f"package-{number}.tar"
        archive.pack(directory, tar)
        version = packages.version(
            digest,
            self.keys,
            self.artifacts.put_file(f"packages/{number}/package.tar", tar),
            self.artifacts.put_file(f"packages/{number}/model.sig", signature),
        )
        said = {"run_id": "01RUN", "training_set": training_set, "metrics": {"auroc": 0.8}}
        return packages.of_a_run(self.keys, version.model_copy(update=said))

    def registered(self, **options: Any) -> ModelVersionRegistered:
        return packages.registered(self.keys, self.version(**options))

    def __post_init__(self) -> None:
        self._numbers: Iterator[int] = iter(range(1000))


@pytest.fixture
def world(tmp_path: Path, root: str) -> World:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    return World(tmp_path, Artifacts(root), keys)
