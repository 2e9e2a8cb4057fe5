"""A pipeline `loans` whose graph really answers its package's probe rows, and a registry that
promotes it: signed, in Kafka.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from confluent_kafka import Producer
from onnx import NodeProto, TensorProto, helper, numpy_helper
from ulid import ULID

from penstock.contracts.events import Event, ModelVersionPromoted, encode
from penstock.contracts.topics import pipeline_topics
from penstock.packages.archive import pack
from penstock.packages.keys import Keys
from penstock.packages.signing import sign_package
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.cloud_events import headers_of
from penstock.runtime.kafka.access import grant_topics
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.testing import lending, packages

NAME = "loans"


def graph(bias: float = 0.0) -> bytes:
    """income [N, 1], purpose [N, 1] → p = sigmoid(ln 3 · income + bias), a missing income counting
    as 0; decision at 0.5.
    """
    weights = {
        "weight": np.array([[log(3)]]),
        "bias": np.array([bias]),
        "zero": np.array(0.0),
        "one": np.array([1.0], dtype="f4"),
        "half": np.array([0.5], dtype="f4"),
        "yes": np.array(["true"], dtype=object),
        "no": np.array(["false"], dtype=object),
    }
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        _nodes(),
        NAME,
        [value("numbers", TensorProto.DOUBLE, ["N", 1]), value("strings", TensorProto.STRING, ["N", 1])],
        [
            value("probabilities", TensorProto.FLOAT, ["N", 2]),
            value("decision", TensorProto.STRING, ["N", 1]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)], ir_version=9
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        node("IsNaN", ["numbers"], ["absent"]),
        node("Where", ["absent", "zero", "numbers"], ["income"]),
        node("MatMul", ["income", "weight"], ["weighed"]),
        node("Add", ["weighed", "bias"], ["biased"]),
        node(
            "LabelEncoder",
            ["strings"],
            ["purpose"],
            domain="ai.onnx.ml",
            keys_strings=["car"],
            values_floats=[0.0],
            default_float=0.0,
        ),
        node("Cast", ["purpose"], ["purpose64"], to=TensorProto.DOUBLE),
        node("Add", ["biased", "purpose64"], ["logit"]),
        node("Sigmoid", ["logit"], ["probability"]),
        node("Cast", ["probability"], ["positive"], to=TensorProto.FLOAT),
        node("Sub", ["one", "positive"], ["negative"]),
        node("Concat", ["negative", "positive"], ["probabilities"], axis=1),
        node("Greater", ["positive", "half"], ["above"]),
        node("Where", ["above", "yes", "no"], ["decision"]),
    ]


@dataclass
class Registry:
    """Makes versions and promotes them, as model_registry does; and can be told to do it wrongly."""

    keys: Keys
    artifacts: Artifacts
    kafka: KafkaSettings
    generation: int = 0
    made: list[ModelVersionPromoted] = field(default_factory=list)

    @classmethod
    def at(cls, home: Path, kafka: KafkaSettings, root: str | None = None) -> Registry:
        """`root`: of the artifacts, by default in `home`."""
        keys = Keys(home / "keys")
        keys.ensure()
        return cls(keys, Artifacts(root or f"file://{home}/artifacts"), kafka)

    def version(
        self,
        *,
        bias: float = 0.0,
        generation: int | None = None,
        spoil: Callable[[Path], None] | None = None,
        keys: Keys | None = None,
        record: str = "best_effort",
    ) -> ModelVersionPromoted:
        """A promoted version. `spoil` may change the package after it was signed; other `keys` sign
        it as a stranger would.
        """
        keys = keys or self.keys
        self.generation = generation or self.generation + 1
        with tempfile.TemporaryDirectory() as name:
            package = Path(name) / "package"
            digest = packages.write_package(
                package,
                model=graph(bias),
                card=f"# loans {ULID()}\n",
                pipeline=lending.pipeline(serving={"record": record}),
            )
            return self.of_package(package, digest, keys=keys, spoil=spoil)

    def of_package(
        self,
        package: Path,
        digest: str,
        *,
        pipeline: str = NAME,
        keys: Keys | None = None,
        spoil: Callable[[Path], None] | None = None,
    ) -> ModelVersionPromoted:
        """A version of a package that lies in a folder, promoted as the present generation; what goes with
        the package comes to lie beside it.
        """
        keys, beside = keys or self.keys, package.parent
        sign_package(package, beside / "model.sig", keys.signer("registry"))
        if spoil:
            spoil(package)
        pack(package, beside / "package.tar")
        archive = self.artifacts.put_file(f"packages/{digest[7:]}/package.tar", beside / "package.tar")
        signature = self.artifacts.put_file(f"packages/{digest[7:]}/model.sig", beside / "model.sig")
        version = packages.version(digest, keys, archive, signature, pipeline)
        proof = packages.verdict(keys, digest, name=pipeline)
        promoted = packages.promotion(keys, version, proof, generation=self.generation)
        self.made.append(promoted)
        return promoted

    def promote(self, **how: Any) -> ModelVersionPromoted:
        if self.kafka.grants:
            topics = pipeline_topics(lending.pipeline())
            ensure_topics(self.kafka, topics)
            grant_topics(self.kafka, topics)
        promoted = self.version(**how)
        self.publish(promoted)
        return promoted

    def publish(self, event: Event) -> None:
        producer = Producer(self.kafka.client())
        headers = headers_of(
            event_id=str(ULID()),
            source="test",
            event_type=event.ce_type(),
            time=datetime.now(UTC),
            subject=event.key,
            traceparent=None,
        )
        producer.produce(
            self.kafka.topic(event.topic), encode(event), event.key, headers=list(headers.items())
        )
        producer.flush(10)


def changed(promotion: ModelVersionPromoted, **fields: Any) -> ModelVersionPromoted:
    return promotion.model_copy(update=fields)


__all__ = ["NAME", "Registry", "changed", "dataclasses", "graph"]
