"""What Triton reads, and what its answers are held against."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.contracts.pipeline import Batch
from penstock.packages.parts import Inputs, ModelSignature, Output, Probes, TargetSignature
from penstock.runtime.store import Store, assert_migrations_match
from penstock.serving.probes import batches, difference
from penstock.serving.protocol.tensors import Tensor
from penstock_inference.serving.repository import ModelRepository, model_config
from penstock_inference.store import Tables

SIGNATURE = ModelSignature(
    inputs=Inputs(numbers=("age", "income"), strings=("purpose",)),
    outputs={
        "probabilities": Output(datatype="FP32", columns=2),
        "decision": Output(datatype="BYTES", columns=1),
    },
    classes=("no", "yes"),
    target=TargetSignature(name="default", type="binary"),
)


def test_the_configuration_is_the_signature_in_tritons_words() -> None:
    config = model_config("loans", SIGNATURE, Batch(max_size=32, max_delay=timedelta(milliseconds=2)), [3, 2])
    assert config.splitlines()[:8] == [
        'name: "loans"',
        'backend: "onnxruntime"',
        "max_batch_size: 32",
        'input { name: "numbers" data_type: TYPE_FP64 dims: [2] }',
        'input { name: "strings" data_type: TYPE_STRING dims: [1] }',
        'output { name: "decision" data_type: TYPE_STRING dims: [1] }',
        'output { name: "probabilities" data_type: TYPE_FP32 dims: [2] }',
        "version_policy { specific { versions: [2, 3] } }",
    ]
    assert "max_queue_delay_microseconds: 2000" in config
    assert "instance_group [ { count: 1 kind: KIND_CPU } ]" in config


def test_on_gpus_nothing_differs_but_where_it_runs() -> None:
    lines = [model_config("loans", SIGNATURE, Batch(), [1], device).splitlines() for device in ("cpu", "gpu")]
    differing = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert differing == [
        ("instance_group [ { count: 1 kind: KIND_CPU } ]", "instance_group [ { count: 1 kind: KIND_GPU } ]")
    ]


def test_a_tensor_without_columns_is_absent() -> None:
    only_texts = SIGNATURE.model_copy(update={"inputs": Inputs(strings=("purpose",))})
    assert "numbers" not in model_config("loans", only_texts, Batch(), [1])


def test_versions_come_whole_and_go_whole(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    repository.place("loans", 1, b"one")
    repository.place("loans", 2, b"two")
    repository.place("loans", 2, b"two again")
    repository.configure("loans", "config")
    assert (repository.names(), repository.versions("loans")) == ({"loans"}, {1, 2})
    assert (tmp_path / "models" / "loans" / "2" / "model.onnx").read_bytes() == b"two again"
    repository.remove_versions("loans", [1])
    assert repository.versions("loans") == {2}
    repository.remove("loans")
    assert repository.names() == set()


PROBES = Probes(
    numbers=((1.0, None), (2.0, 3.0), (4.0, 5.0)),
    strings=(("car",), ("",), ("home",)),
    outputs={
        "probabilities": ((0.25, 0.75), (0.5, 0.5), (0.1, 0.9)),
        "decision": (("yes",), ("no",), ("yes",)),
    },
)


def answers(*, nudge: float = 0.0, decisions: tuple[str, ...] = ("yes", "no")) -> dict[str, Tensor]:
    return {
        "probabilities": Tensor((2, 2), [0.25 + nudge, 0.75, 0.5, 0.5]),
        "decision": Tensor((2, 1), list(decisions)),
    }


def test_probes_are_asked_in_batches_that_the_model_takes() -> None:
    assert [(rows.first, len(rows.numbers), len(rows.strings)) for rows in batches(PROBES, 2)] == [
        (0, 2, 2),
        (2, 1, 1),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answers(), None),
        (answers(nudge=9e-7), None),
        (answers(nudge=2e-6), "probe row 0 gives probabilities 0.250002, 0.75, the package says 0.25, 0.75"),
        (answers(nudge=math.nan), "probe row 0 gives probabilities nan, 0.75, the package says 0.25, 0.75"),
        (answers(decisions=("yes", "yes")), "probe row 1 gives decision yes, the package says no"),
        ({"probabilities": answers()["probabilities"]}, "there is no output decision"),
        (
            answers() | {"decision": Tensor((2, 2), ["a"] * 4)},
            "decision is [2, 2] with 4 values, expected [N, 1]",
        ),
        (answers() | {"decision": Tensor((1, 1), ["yes"])}, "decision has 1 rows for 2"),
    ],
)
def test_a_loaded_model_must_answer_as_its_package_says(given: dict[str, Tensor], said: str | None) -> None:
    assert difference(next(iter(batches(PROBES, 2))), given, PROBES.tolerance) == said


def test_migrations_make_the_tables(database: str) -> None:
    store = Store.open(database, migrations="penstock_inference.migrations")
    assert_migrations_match(store, Tables.metadata)
    store.close()
