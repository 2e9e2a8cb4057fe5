"""Whoever can write to Kafka repeats what the services signed and changes what it says: nothing comes
of it on a running stack, and each is a dead letter of each that reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attacked import Attacked
from census import PIPELINE, Served
from load import everything
from pydantic import ValidationError

from penstock.contracts.events import (
    AuditCompleted,
    Event,
    ModelVersionPromoted,
    ModelVersionRegistered,
    PipelineApplied,
    TrainingRunCompleted,
    decode,
    encode,
)
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

BETTER = {"auroc": 1.0}
OTHER: dict[type[Event], tuple[Callable[[Any], Event], set[str]]] = {
    PipelineApplied: (
        lambda said: said.model_copy(update={"number": said.number + 1}),
        {"ingest", "feature_store", "ethics_audit", "inference"},
    ),
    TrainingRunCompleted: (
        lambda said: said.model_copy(update={"metrics": BETTER}),
        {"model_registry", "feature_store"},
    ),
    ModelVersionRegistered: (
        lambda said: said.model_copy(update={"version": said.version.model_copy(update={"metrics": BETTER})}),
        {"ethics_audit"},
    ),
    AuditCompleted: (
        lambda said: said.model_copy(update={"digest": "sha256:" + "9" * 64}),
        {"model_registry"},
    ),
    ModelVersionPromoted: (
        lambda said: said.model_copy(update={"generation": said.generation + 1}),
        {"inference"},
    ),
}
"""Another version of each fact, and who reads it."""


def genuine(served: Served, kind: type[Event]) -> Event:
    """The newest of its kind about the pipeline that is served."""
    found = []
    for message in everything(served).read(kind.topic):
        ce_type = dict(message.headers() or ()).get("ce_type", b"").decode(errors="replace")
        value = message.value() or b""
        if ce_type == kind.ce_type() and f'"{PIPELINE}"'.encode() in value:
            with suppress(ValidationError):  # other tests send what is none
                found.append(decode(ce_type, value))
    assert found[-1] is not None
    return found[-1]


def told(served: Served) -> list[Any]:
    client = served.client
    return [
        client.pipelines.get(PIPELINE).number,
        client.models.list(PIPELINE),
        [
            (one.digest, one.generation)
            for one in client.predictions.serving().pipelines
            if one.pipeline == PIPELINE
        ],
        client.audits.get(served.version.digest),
    ]


def test_a_signed_fact_that_says_something_else_has_no_effect(attacked: Attacked) -> None:
    served = attacked.served
    forged = {kind: encode(otherwise(genuine(served, kind))) for kind, (otherwise, _) in OTHER.items()}
    readers = {
        (forged[kind], f"penstock.{reader}") for kind, (_, consumers) in OTHER.items() for reader in consumers
    }
    before = told(served)

    def left_out() -> bool:
        letters = served.client.dead_letters.list()
        return readers <= {(letter.message.value(), letter.group) for letter in letters}

    attacked.says(forged.items())
    until(left_out, what="each reader leaves them out")
    assert told(served) == before
    assert served.client.audits.verify(served.version.digest).valid
    attacked.stack.ready()
