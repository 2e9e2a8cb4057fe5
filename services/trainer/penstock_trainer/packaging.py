"""A trained model becomes a package: nine files, what its family shows of it and its baselines, named by
the digest of their manifest. The registry signs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from penstock.contracts.events import StudyReference, TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import Built
from penstock.modelkit.family import Epoch
from penstock.modelkit.metrics import CURVE
from penstock.packages.format import write_package
from penstock.packages.parts import CurvePoint, Curves, Explanation, Origin, Parts
from penstock_trainer.card import model_card
from penstock_trainer.imported_card import imported_card
from penstock_trainer.pace import pace_of


def package(
    directory: Path,
    pipeline: Pipeline,
    training_set: TrainingSet,
    built: Built,
    *,
    run_id: str,
    pipeline_number: int,
    chosen: Mapping[str, JsonValue] = MappingProxyType({}),
    because: str = "",
    origin: Origin | None = None,
    study: StudyReference | None = None,
    baselines: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Writes the package into `directory`, which must be empty or missing, and returns its digest.
    `chosen`: what the pipeline file left open, by dotted key; `because`: reason for the family, where
    the file names none. `origin`: of a model made elsewhere.
    `study`: the one whose trial the run repeated. `baselines`: graphs of simpler models, by family.
    """
    made_by: dict[str, Any] = {"run_id": run_id, "pipeline_number": pipeline_number}
    if origin is None:
        told: dict[str, Any] = {"chosen": chosen, "because": because, "study": study}
        card = model_card(pipeline, training_set, built, **told, **made_by)
    else:
        card = imported_card(pipeline, training_set, built, origin, **made_by)
    metric = built.history[-1].metric if built.history else CURVE[pipeline.target.type]
    about = built.description
    shown = Explanation(gain=dict(about.importance), pictures=about.pictures)
    parts = Parts(
        pipeline=pipeline,
        signature=built.signature,
        metrics=built.metrics,
        training_set=training_set.model_copy(update={"evidence": None}),  # same bytes, same package
        profile=built.profile,
        curves=Curves(
            metric=metric, points=tuple(map(_point, built.history)), pace=pace_of(built.history).part
        ),
        model_card=card,
        explanation=shown if shown != Explanation() else None,
        origin=origin,
        study=study,
    )
    return write_package(directory, built.model, parts, baselines)


def _point(epoch: Epoch) -> CurvePoint:
    return CurvePoint(
        epoch=epoch.number,
        train_loss=epoch.train_loss,
        validation_loss=epoch.validation_loss,
        validation_metric=epoch.validation_metric,
        learning_rate=epoch.learning_rate,
        elapsed_s=epoch.elapsed_s,
    )
