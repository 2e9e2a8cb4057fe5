"""Signature of the model's inputs and outputs, from the pipeline file and the training set's classes."""

from __future__ import annotations

from penstock.contracts.pipeline import Pipeline
from penstock.packages.parts import Inputs, ModelSignature, Output, TargetSignature


def signature(pipeline: Pipeline, classes: tuple[str, ...]) -> ModelSignature:
    """Numbers in one tensor, all else in the other, each in the order of the pipeline file.

    `classes` names the columns of `probabilities`: binary, the negative class and then the positive
    one. A regression has none, gives `value` instead, and decides nothing.
    """
    target = pipeline.target
    types = {
        name: pipeline.field(feature.source_field).type
        for name, feature in pipeline.resolved_features().items()
    }
    if target.type == "regression":
        outputs = {"value": Output(datatype="FP32", columns=1)}
    else:
        outputs = {
            "probabilities": Output(datatype="FP32", columns=len(classes)),
            "decision": Output(datatype="BYTES", columns=1),
        }
    return ModelSignature(
        inputs=Inputs(
            numbers=tuple(name for name, kind in types.items() if kind == "number"),
            strings=tuple(name for name, kind in types.items() if kind != "number"),
        ),
        outputs=outputs,
        classes=classes if target.type != "regression" else (),
        target=TargetSignature(name=next(iter(pipeline.targets)), type=target.type),
    )
