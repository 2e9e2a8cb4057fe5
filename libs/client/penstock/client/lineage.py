"""Lineage of a prediction, a version or a run, back to the events that made it."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import orjson
from ulid import ULID

from penstock.client.audits import Audits
from penstock.client.events import Events
from penstock.client.features import Features
from penstock.client.models import Models
from penstock.client.pipelines import Pipelines
from penstock.client.runs import Runs
from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.events import ModelVersion
from penstock.contracts.topics import predictions_topic
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer

_DIGEST = re.compile(r"(?:.+@)?(?:sha256:)?[0-9a-f]{4,64}")


@dataclass(frozen=True)
class Lineage:
    """A chain from prediction to events. Parts that come after the starting point are None."""

    prediction: Prediction | None
    events: tuple[features.Record, ...]
    """The events behind the prediction's features, where it was asked by entity."""
    version: registry.Version | None
    model: ModelVersion | None
    """Holds the training set's fingerprint, its parts and the offsets it was made of."""
    audit: audit.Audit | None
    run: trainer.Run


class Tracing:
    """`penstock.lineage`: from a prediction, a version or a run back to its events."""

    def __init__(
        self,
        pipelines: Pipelines,
        events: Events,
        features: Features,
        runs: Runs,
        models: Models,
        audits: Audits,
    ) -> None:
        self._pipelines = pipelines
        self._events = events
        self._features = features
        self._runs = runs
        self._models = models
        self._audits = audits

    def trace(self, identity: str) -> Lineage:
        """Follows a prediction id, a run id or a version (digest, a prefix of it, `pipeline@prefix`).

        A prediction is looked for in its topic from the beginning: some seconds for a million.
        Raises NotFound, Invalid.
        """
        if _is_uuid(identity):
            return self._of_prediction(identity)
        if _is_ulid(identity):
            return Lineage(None, (), None, None, None, self._runs.get(identity))
        if _DIGEST.fullmatch(identity):
            return self._of_version(identity)
        raise Invalid(
            f"`{identity}` is no id",
            remedy="Give a prediction's id, a run's id, or a version like adult-income@3f9c12ab",
        )

    def prediction(self, identity: str) -> Prediction:
        """The record of one prediction. Raises NotFound."""
        for pipeline in self._pipelines.list():
            for message in self._events.read(predictions_topic(pipeline.name)):
                value = message.value()
                if value is not None and message.key() == identity.encode():
                    found: Prediction = orjson.loads(value)
                    return found
        raise NotFound(
            f"no record of prediction `{identity}`",
            remedy="Records appear within a second and stay for `serving.record_retention`",
        )

    def _of_prediction(self, identity: str) -> Lineage:
        prediction = self.prediction(identity)
        digest = prediction["digest"]
        if digest is None:
            raise NotFound(
                f"prediction `{identity}` was not answered by a version",
                remedy=f"Its status is {prediction['status']}",
            )
        line = self._of_version(f"{prediction['pipeline']}@{digest}")
        behind = prediction.get("events") or {}
        records = [
            record
            for source, event in behind.items()
            for record in self._features.records(prediction["pipeline"], source, id=event)
        ]
        return Lineage(prediction, tuple(records), line.version, line.model, line.audit, line.run)

    def _of_version(self, version: str) -> Lineage:
        found = self._models.get(version)
        try:
            audited = self._audits.get(found.digest)
        except NotFound:
            audited = None
        model = ModelVersion.model_validate_json(found.version_json)
        return Lineage(None, (), found, model, audited, self._runs.get(found.run_id))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_ulid(text: str) -> bool:
    try:
        ULID.from_str(text)
    except ValueError:
        return False
    return True
