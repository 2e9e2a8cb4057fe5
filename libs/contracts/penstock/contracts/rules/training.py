"""Rules for training: the split, and whether the family does what `trainer` asks for."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.problem import Problem, nearest


def training(pipeline: Pipeline) -> Iterator[Problem]:
    """Finds problems of training, in the file's order of sections."""
    yield from _split(pipeline)
    yield from _not_served(pipeline)
    yield from _family(pipeline)
    yield from _class_weights(pipeline)
    yield from _fairness(pipeline)


def _split(pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.split is None:
        return
    if pipeline.split.by not in (pipeline.entity, "time"):
        yield Problem(
            ("split", "by"), f"no such split{nearest(pipeline.split.by, (pipeline.entity, 'time'))}"
        )
    parts = pipeline.split.parts
    if abs(parts.train + parts.validation + parts.audit - 1) > 1e-6:
        yield Problem(
            ("split", "parts"),
            f"the parts add up to {parts.train + parts.validation + parts.audit:g}; they must make 1",
        )


def _not_served(pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.training.workers > 1:
        yield Problem(("training", "workers"), "this release trains with one worker; leave `workers` out")
    if pipeline.training.accelerator == "gpu":
        yield Problem(("training", "accelerator"), "this release does not train on GPUs; use `auto` or `cpu`")


def _family(pipeline: Pipeline) -> Iterator[Problem]:
    """Demands on the model's family that it does not meet."""
    family, kind = pipeline.model, pipeline.target.type
    if kind not in family.targets:
        yield Problem(
            ("model", "type"),
            f"`{family.type}` takes a {' or '.join(sorted(family.targets))} target, not {kind}",
        )
    for key in sorted(pipeline.trainer.model_fields_set - family.trainer_keys):
        if getattr(pipeline.trainer, key) is not None:
            yield Problem(
                ("trainer", key),
                f"`{family.type}` is not trained by `{key}`{nearest(key, sorted(family.trainer_keys))}",
            )


def _class_weights(pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.trainer.class_weights != "none" and pipeline.target.type == "regression":
        yield Problem(("trainer", "class_weights"), "a regression has no classes to weigh; leave it out")


def _fairness(pipeline: Pipeline) -> Iterator[Problem]:
    constraint = pipeline.trainer.fairness
    if constraint is None:
        return
    at: Path = ("trainer", "fairness")
    if pipeline.target.type != "binary":
        yield Problem(at, "a fairness constraint needs a binary target")
    if constraint.by not in pipeline.audit.groups:
        yield Problem(
            (*at, "by"),
            f"`{constraint.by}` is no group of `audit.groups`{nearest(constraint.by, pipeline.audit.groups)}",
        )
