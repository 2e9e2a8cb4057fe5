"""An import as a run: what `penstock.modelkit.build` gives for a trained model, for one that is brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit import metrics
from penstock.modelkit.build import Built, check
from penstock.modelkit.family import Description
from penstock.modelkit.imports.confined import adopt
from penstock.modelkit.model import TOLERANCE
from penstock.modelkit.preprocessing import fit
from penstock.modelkit.profile import describe, draw_probes, probes
from penstock.modelkit.rows import classes, signature
from penstock.modelkit.stored import opened
from penstock.packages.parts import Profile

LIMITS = (
    "It was not trained here: what it learned from is not known, nor whether the audit's rows were among"
    " it. Then the audit's figures are too good.",
)


def build_imported(
    pipeline: Pipeline, content: bytes, train_part: Path, validation_part: Path, *, name: str
) -> Built:
    """Checks and adapts an ONNX graph and chooses its threshold on the validation rows. The training
    rows give the reference profile and the probes alone. `name`: the file's.

    Blocks for up to a minute and a half. Raises Invalid for each thing that is wrong with it.
    """
    named = signature(pipeline, classes(train_part))
    if "interval" in named.outputs:
        raise Invalid(
            "a model made elsewhere gives no interval",
            where=f"targets.{named.target.name}.quantiles",
            remedy="Leave `quantiles` out and apply again",
        )
    training, validation = (opened(part, named, pipeline) for part in (train_part, validation_part))
    check(pipeline, named, training, validation)
    sample, judged = training.sampled(), validation.sampled()
    fitted = fit(pipeline, named, sample)
    numbers, strings = describe(pipeline, fitted, sample)
    drawn = draw_probes(numbers, strings, fitted, pipeline.training.seed)
    found = adopt(content, named, judged, drawn, pipeline.decision)
    threshold = float(found["threshold"][0]) if len(found["threshold"]) else None
    answers, expected = (
        {output: found[f"{part}.{output}"] for output in named.outputs} for part in ("rows", "probes")
    )
    measured = metrics.of_split(pipeline.target.type, judged.labels, answers, threshold)
    spread = float(np.std(training.labels)) if pipeline.target.type == "regression" else 1.0
    return Built(
        model=found["model"].tobytes(),
        signature=named,
        metrics=measured if threshold is None else measured | {"threshold": threshold},
        history=(),
        profile=Profile(
            features=numbers | strings,
            probes=probes(drawn, expected, fitted, TOLERANCE * max(1.0, spread)),
        ),
        threshold=threshold,
        parity=0.0,
        weights=digest_of(content),
        description=Description(
            kind=f"the ONNX graph `{name}`, made elsewhere",
            training="Not trained here",
            library="the file",
            limits=LIMITS,
        ),
        sampled=len(sample) if len(sample) < len(training) else None,
        judged=len(judged) if len(judged) < len(validation) else None,
    )
