"""Rules for training: the split, and whether the family does what `trainer` asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.contracts.pipeline import Ensemble, Monotone, Pipeline, PlateauSchedule
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.model import models
from penstock.contracts.rules.problem import Problem, failing, nearest, unknown_reference

CONSTRAINTS = frozenset({"class_weights", "fairness"})


def training(pipeline: Pipeline) -> Iterator[Problem]:
    """Finds problems of training, in the file's order of sections."""
    yield from _quantiles(pipeline)
    yield from _split(pipeline)
    yield from failing(
        (
            pipeline.training.workers not in (1, "auto") and not pipeline.model.workers,
            ("training", "workers"),
            f"`{pipeline.model.type}` is trained by one worker; leave `workers` out, or name a network",
        ),
        (
            pipeline.training.accelerator == "gpu" and not pipeline.model.workers,
            ("training", "accelerator"),
            f"`{pipeline.model.type}` is trained on a CPU; leave `accelerator` out, or name a network",
        ),
    )
    yield from _steps(pipeline)
    yield from _sample_weight(pipeline)
    yield from _family(pipeline)
    for place, each in _trainers(pipeline):
        yield from _fitting(place, each)


def _steps(pipeline: Pipeline) -> Iterator[Problem]:
    training, network = pipeline.training, pipeline.model.workers
    for key, usual in (("precision", "fp32"), ("compile", "none")):
        yield from failing(
            (
                getattr(training, key) != usual and not network,
                ("training", key),
                f"`{pipeline.model.type}` is no network; leave `{key}` out, or name one",
            )
        )
    yield from failing(
        (
            training.compile == "cudagraphs" and training.accelerator == "cpu",
            ("training", "compile"),
            "a CPU records no graphs; leave `compile` out, or `accelerator`",
        )
    )


def _quantiles(pipeline: Pipeline) -> Iterable[Problem]:
    (name, target), family = next(iter(pipeline.targets.items())), pipeline.model
    at: Path = ("targets", name, "quantiles")
    if target.quantiles is None:
        return ()
    low, high = target.quantiles
    return failing(
        (target.type != "regression", at, "`quantiles` are for a regression"),
        (not 0.001 <= low < high <= 0.999, at, "give two shares from 0.001 to 0.999, the lower one first"),
        (not family.quantiles, at, f"`{family.type}` gives no interval; leave it out"),
        (
            isinstance(family, Monotone) and family.monotone,
            at,
            "an interval cannot be held to `monotone`; leave one of the two out",
        ),
    )


def _split(pipeline: Pipeline) -> Iterable[Problem]:
    if pipeline.split is None:
        return ()
    by, parts = pipeline.split.by, pipeline.split.parts
    known, total = (pipeline.entity, "time"), parts.train + parts.validation + parts.audit
    return failing(
        (by not in known, ("split", "by"), f"rows cannot be split by `{by}`{nearest(by, known)}"),
        (abs(total - 1) > 1e-6, ("split", "parts"), f"the parts add up to {total:g}; they must make 1"),
    )


def _sample_weight(pipeline: Pipeline) -> Iterable[Problem]:
    reference = pipeline.training.sample_weight
    alike = next((each.model.type for each in pipeline.members() if not each.model.sample_weight), "")
    at: Path = ("training", "sample_weight")
    if reference is None:
        return ()
    if missing := unknown_reference(pipeline, reference):
        return [Problem(at, missing)]
    kind = pipeline.field(reference).type
    return failing(
        (kind != "number", at, f"a weight is a number; `{reference}` is {kind}"),
        (reference == pipeline.target.source_field, at, "this is what is predicted; name another field"),
        (alike, at, f"`{alike}` counts all rows alike; leave the weight out, or name another model"),
    )


def _family(pipeline: Pipeline) -> Iterator[Problem]:
    """Demands on the model's family that it does not meet. A constraint is for all members of an
    ensemble, another key of a `trainer` that they share for those that know it.
    """
    kind = pipeline.target.type
    for place, each in models(pipeline):
        family = each.model
        yield from failing(
            (
                kind not in family.targets,
                (*place, "type") if place == ("model",) else place,
                f"`{family.type}` takes a {' or '.join(sorted(family.targets))} target, not {kind}",
            )
        )
    for place, each in _trainers(pipeline):
        for key in sorted(each.trainer.model_fields_set):
            strangers = [one.model for one in each.members() if key not in one.model.trainer_keys]
            enough = key in CONSTRAINTS or len(strangers) == len(each.members())
            if strangers and enough and getattr(each.trainer, key) is not None:
                family = strangers[0]
                said = f"`{family.type}` is not trained by `{key}`{nearest(key, sorted(family.trainer_keys))}"
                yield Problem((*place, key), said)


def _trainers(pipeline: Pipeline) -> Iterator[tuple[Path, Pipeline]]:
    """The pipeline with each `trainer` that it has, and the place of that in the file."""
    if isinstance(pipeline.model, Ensemble) and pipeline.model.trainers:
        for number, each in enumerate(pipeline.members()):
            yield ("model", "trainers", number), each
    else:
        yield ("trainer",), pipeline


def _fitting(place: Path, pipeline: Pipeline) -> Iterable[Problem]:
    """Parts of a `trainer` that do not fit the target or the audit's groups."""
    kind, constraint, groups = pipeline.target.type, pipeline.trainer.fairness, pipeline.audit.groups
    schedule, stopping = pipeline.trainer.schedule, pipeline.trainer.early_stopping
    by = constraint.by if constraint else ""
    at: Path = (*place, "fairness")
    return failing(
        (
            pipeline.trainer.class_weights != "none" and kind == "regression",
            (*place, "class_weights"),
            "a regression has no classes to weigh; leave it out",
        ),
        (
            isinstance(schedule, PlateauSchedule)
            and stopping is not None
            and stopping.patience <= schedule.patience + 1,
            (*place, "schedule", "patience"),
            "early stopping would end training before the rate falls; give it more patience than"
            f" {getattr(schedule, 'patience', 0) + 1} epochs, or the schedule less",
        ),
        (constraint and kind != "binary", at, "a fairness constraint needs a binary target"),
        (
            constraint and by not in groups,
            (*at, "by"),
            f"`{by}` is no group of `audit.groups`{nearest(by, groups)}",
        ),
    )
