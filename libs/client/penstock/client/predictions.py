"""Predictions by entity or by fields, their records, and what the door serves."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import itemgetter
from typing import Final

from pydantic import TypeAdapter, ValidationError

from penstock.client.connection import Connection
from penstock.client.events import Events
from penstock.client.features import Features
from penstock.client.records import behind, shown
from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import Conflict, Invalid, NotFound
from penstock.contracts.topics import predictions_topic
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1 import inference_pb2_grpc

_RECORD: Final = TypeAdapter(Prediction)


class Predictions:
    """`penstock.predictions`: answers, and who gives them."""

    def __init__(self, connection: Connection, events: Events, features: Features) -> None:
        self._connection = connection
        self._events = events
        self._features = features
        self._stub = inference_pb2_grpc.InferenceServiceStub(connection.channel)

    def by_entity(self, pipeline: str, entity: str, *, timeout: float = 10.0) -> inference.PredictResponse:
        """Predicts with the features that the feature store holds for the entity. Raises NotFound,
        DeadlineExceeded.
        """
        return self._connection.call(
            self._stub.Predict, inference.PredictRequest(pipeline=pipeline, entity=entity), timeout=timeout
        )

    def by_fields(
        self, pipeline: str, fields: Mapping[str, object], *, timeout: float = 10.0
    ) -> inference.PredictResponse:
        """Predicts with these features; one left out is missing. Raises Invalid for an unknown name or a
        wrong type.
        """
        given = inference.Fields(
            fields={name: _value(name, value) for name, value in fields.items() if value is not None}
        )
        return self._connection.call(
            self._stub.Predict, inference.PredictRequest(pipeline=pipeline, fields=given), timeout=timeout
        )

    def recorded(self, pipeline: str, *, for_labelling: bool = False, limit: int = 20) -> list[Prediction]:
        """The newest records that Kafka still holds; with `for_labelling` those that a person is to label
        (`edge.label_below`). What is none is left out, and inputs and answers of who is erased. Raises
        NotFound, Unavailable, Refused.
        """
        newest = heapq.nlargest(limit, self._kept(pipeline, for_labelling), key=itemgetter("time"))
        return [shown(one, behind(one, self._features)) for one in newest]

    def _kept(self, pipeline: str, for_labelling: bool) -> Iterator[Prediction]:
        for message in self._events.read(predictions_topic(pipeline)):
            with suppress(ValidationError):
                found = _RECORD.validate_json(message.value() or b"")
                if not for_labelling or found.get("for_labelling"):
                    yield found

    def columns(self, pipeline: str) -> inference.Serving:
        """Features in the order of the columns of the tensors `numbers` and `strings`, by which any client
        of the Open Inference Protocol asks the version that serves. Raises NotFound where none does, Conflict
        with the reason where the pipeline is stopped.
        """
        for one in self.serving().pipelines:
            if one.pipeline == pipeline and one.stopped:
                resume = f"penstock resume {pipeline} has it answer again"
                raise Conflict(f"{pipeline} is stopped: {one.stopped}", remedy=resume)
            if one.pipeline == pipeline and one.digest:
                return one
        raise NotFound(f"no version of `{pipeline}` serves", remedy=f"See penstock models {pipeline}")

    def serving(self) -> inference.GetServingResponse:
        """Returns the version that answers for each pipeline, refusals with reasons, and whether the front
        door is open.
        """
        return self._connection.call(self._stub.GetServing, inference.GetServingRequest())


def _value(name: str, value: object) -> inference.Value:
    match value:
        case bool():
            return inference.Value(boolean=value)
        case int() | float():
            return inference.Value(number=float(value))
        case str():
            return inference.Value(text=value)
        case _:
            raise Invalid(
                f"a feature has no value of type {type(value).__name__}",
                where=name,
                remedy="Give a number, text or boolean; leave out what is missing",
            )
