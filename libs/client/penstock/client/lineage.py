"""Lineage of a prediction, a version or a run, back to the events that made it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from penstock.client.records import behind, shown
from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.events import ModelVersion
from penstock.contracts.topics import predictions_topic
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.ethics_audit.v1.ethics_audit_pb2 import Review
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer

if TYPE_CHECKING:
    from penstock.client.client import Penstock

_PREDICTION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)  # a UUID
_RUN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)  # a ULID
_VERSION = re.compile(r"(?:.+@)?(?:sha256:)?[0-9a-f]{4,64}")


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A chain from prediction to events. Parts that come after the starting point are None. `events`
    are those behind the prediction's features, where it was asked by entity; `model` holds the
    training set's fingerprint, its parts and the offsets it was made of.
    """

    prediction: Prediction | None = None
    events: tuple[features.Record, ...] = ()
    version: registry.Version | None = None
    model: ModelVersion | None = None
    audit: audit.Audit | None = None
    review: Review | None = None
    """Decision of a person on a verdict that is no pass."""
    run: trainer.Run


class Tracing:
    """`penstock.lineage`: from a prediction, a version or a run back to its events."""

    def __init__(self, penstock: Penstock) -> None:
        self._penstock = penstock

    def trace(self, identity: str) -> Lineage:
        """Follows a prediction id, a run id or a version (digest, a prefix of it, `pipeline@prefix`).

        A prediction is looked for in its topic from the beginning: some seconds for a million.
        Raises NotFound, Invalid.
        """
        if _PREDICTION.fullmatch(identity):
            return self._of_prediction(identity)
        if _RUN.fullmatch(identity):
            return Lineage(run=self._penstock.runs.get(identity))
        if _VERSION.fullmatch(identity):
            return self._of_version(identity)
        raise Invalid(
            f"`{identity}` is no id",
            remedy="Give a prediction's id, a run's id, or a version like adult-income@3f9c12ab",
        )

    def prediction(self, identity: str) -> Prediction:
        """The record of one prediction, without inputs and answer of who is erased. Raises NotFound."""
        found = self._record(identity)
        return shown(found, behind(found, self._penstock.features))

    def _record(self, identity: str) -> Prediction:
        for pipeline in self._penstock.pipelines.list():
            for message in self._penstock.events.read(predictions_topic(pipeline.name)):
                value = message.value()
                if value is not None and message.key() == identity.encode():
                    found: Prediction = orjson.loads(value)
                    return found
        raise NotFound(
            f"no record of prediction `{identity}`",
            remedy="Records appear within a second and stay for `serving.record_retention`",
        )

    def _of_prediction(self, identity: str) -> Lineage:
        prediction = self._record(identity)
        pipeline, digest = prediction["pipeline"], prediction["digest"]
        if digest is None:
            raise NotFound(
                f"prediction `{identity}` was not answered by a version",
                remedy=f"Its status is {prediction['status']}",
            )
        found = behind(prediction, self._penstock.features)
        return replace(
            self._of_version(f"{pipeline}@{digest}"),
            prediction=shown(prediction, found),
            events=tuple(itertools.chain.from_iterable(found.values())),
        )

    def _of_version(self, version: str) -> Lineage:
        found = self._penstock.models.get(version)
        try:
            audited = self._penstock.audits.get(found.digest)
        except NotFound:
            audited = None
        model = ModelVersion.model_validate_json(found.version_json)
        run = self._penstock.runs.get(found.run_id)
        review = self._review(found) if audited and audited.verdict != "pass" else None
        return Lineage(version=found, model=model, audit=audited, review=review, run=run)

    def _review(self, version: registry.Version) -> Review | None:
        reviews = self._penstock.audits.reviews(version.pipeline, open_only=False)
        decided = (one for one in reviews if one.digest == version.digest and one.state != "open")
        return next(decided, None)
