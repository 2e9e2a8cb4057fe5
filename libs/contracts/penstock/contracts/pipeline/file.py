"""The whole pipeline file, and the sections that stand by themselves."""

from __future__ import annotations

from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock.contracts.measures import Task
from penstock.contracts.pipeline.audit import Audit, Promotion
from penstock.contracts.pipeline.base import Duration, FieldName, FieldReference, Model, Name, Scalar
from penstock.contracts.pipeline.edge import Edge
from penstock.contracts.pipeline.features import ByField, Feature, Treatment, treated
from penstock.contracts.pipeline.model import Ensemble, Mlp, ModelSpec
from penstock.contracts.pipeline.sources import Entity, Source, SourceField
from penstock.contracts.pipeline.trainer import Trainer
from penstock.contracts.pipeline.tuner import Tpe, Tuner

Statement = Annotated[str, Field(min_length=1, max_length=500)]


class Target(Model):
    source_field: FieldReference = Field(alias="from")
    type: Task
    positive: Scalar | None = None
    """Binary: the value that counts as 1 (default true for a boolean)."""
    favourable: Scalar | None = Field(default=None, exclude_if=lambda said: said is None)
    """Binary: the value whose decision is good for the person. The report says so, and judges four fifths
    by how often each group gets that decision.
    """
    quantiles: tuple[float, float] | None = Field(default=None, exclude_if=lambda said: said is None)
    """Regression: answers with an interval, too, from one of these quantiles of what is to be expected
    to the other: `[0.1, 0.9]` is to hold eight of ten true values. The audit measures its `coverage`.
    """


class SplitParts(Model):
    train: float = Field(default=0.6, gt=0, lt=1)
    """Share that the model is fitted on."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share that stops training, chooses the threshold and ranks a search's trials."""
    audit: float = Field(default=0.3, gt=0, lt=1)
    """Share that the audit alone reads."""


class Split(Model):
    by: Name
    """An entity's name (rows of one entity stay together, by hash) or `time` (oldest rows train,
    newest are audited).
    """
    parts: SplitParts = SplitParts()
    """Shares of the rows. `penstock trace RUN --json` names the three Parquet files that hold them,
    below `training-sets/` of the artifact store; the trainer opens two, the audit alone the third.
    """


class Trigger(Model):
    new_labels: int = Field(ge=1)
    """Start a run when this many labels have arrived since the last run's training set."""


def _workers(said: object) -> object:
    """Raises ValueError for what is neither `auto` nor a number."""
    if said == "auto" or (isinstance(said, int) and not isinstance(said, bool) and 1 <= said <= MOST_WORKERS):
        return said
    near = get_close_matches(str(said).lower(), ["auto"])
    meant = "; did you mean `auto`?" if near else ""
    raise ValueError(f"write a whole number from 1 to {MOST_WORKERS}, or `auto`, not {said!r}{meant}")


MOST_WORKERS = 64
Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["fp32", "bf16"]
Compile = Literal["none", "cudagraphs", "inductor"]
Workers = Annotated[Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"], BeforeValidator(_workers)]


class Training(Model):
    trigger: Trigger | None = None
    seed: int = Field(default=7, ge=0, lt=2**31)
    workers: Workers = 1
    """Processes that share each batch's rows, in families of networks; the model is one's, to rounding.
    `auto`: one a core, where a measured step says that it pays. A study's trials, and the run with
    its choice, take one.
    """
    accelerator: Accelerator = "auto"
    """Processor for families of networks. `auto`: a GPU where the trainer has one for each worker; of a
    Ray cluster's machines the CPU. `gpu`: a run fails where there is none, or waits for the cluster's.
    A study's trials, and the run with its choice, take a CPU and none of the next three.
    """
    precision: Precision = Field(default="fp32", exclude_if=lambda said: said == "fp32")
    """Precision of a network's products in training. `bf16`: half the bits there, on processors that are
    faster with them; weights, losses, validation and what is packaged stay in FP32.
    """
    compile: Compile = Field(default="none", exclude_if=lambda said: said == "none")
    """Backend of `torch.compile` for training steps. `cudagraphs`: a GPU repeats a recorded step, which
    saves small networks the time to start each operation. `inductor`: fused operations; needs a C++
    compiler beside the trainer, which its image lacks. Either compiles for a while first.
    """
    deterministic: bool = Field(default=False, exclude_if=lambda said: not said)
    """Has a GPU give the same bits each time, by slower operations where it must. A CPU always does."""
    max_age: Duration = timedelta(days=365)
    """Join: how old a feature row may be when its label is observed."""
    baselines: bool = Field(default=True, exclude_if=lambda said: said)
    """From `defaults: 2` on: fits a linear model and boosted trees on the same rows, some seconds, for
    the audit to compare the model with.
    """
    sample_weight: FieldReference | None = Field(default=None, exclude_if=lambda said: said is None)
    """Field that says how much a row counts in the losses, of training and of early stopping: a number
    from 0 up. No feature unless it is named as one. Measures, the audit's too, count rows alike.
    """


class Threshold(Model):
    choose: Literal["max_f1", "max_accuracy", "fixed", "rate"] = "max_f1"
    """Rule for the probability from which on the positive class is decided: the best F1 or accuracy, a
    `value` of one's own, or as many positive ones as its share.
    """
    on: Literal["validation"] = "validation"
    value: float | None = Field(default=None, gt=0, lt=1)
    """Threshold itself, with `choose: fixed`; with `choose: rate` the share of the validation rows that
    are decided positive.
    """


class Decision(Model):
    threshold: Threshold = Threshold()
    abstain: tuple[float, float] | None = None
    """Probabilities in this closed interval get the decision `abstain`."""


class Batch(Model):
    max_size: int = Field(default=64, ge=1, le=4096)
    """Rows of one request at most; requests that wait are answered together up to as many."""
    max_delay: Duration = timedelta(0)
    """Time that a request waits for others to be answered with."""


class Serving(Model):
    batch: Batch = Batch()
    record: Literal["required", "best_effort"] = "best_effort"
    """`required`: no prediction is answered while none can be recorded."""
    record_retention: Duration = timedelta(days=90)
    """Time for which Kafka keeps each prediction, with inputs and answer."""
    stopped: Statement | None = Field(default=None, exclude_if=lambda said: said is None)
    """Reason why no version of the pipeline answers for now, neither here nor at a site: who asks for a
    prediction is told it. Training, audits and promotions go on. `penstock stop` and `penstock resume`
    write it.
    """


class Pipeline(Model):
    version: Literal[1]
    defaults: Literal[1, 2] = Field(default=1, exclude_if=lambda said: said == 1)
    """Generation of defaults. 2, which `apply` gives a file that names none, chooses many from the
    number of training rows; with 1, that of releases up to 0.1, they are as in these tables.
    """
    pipeline: Name
    owner: Statement | None = Field(default=None, exclude_if=lambda said: said is None)
    """Name of who answers for the model: shown in its report and signed with its package."""
    purpose: Statement | None = Field(default=None, exclude_if=lambda said: said is None)
    """The use that it is made for, and may be judged by."""
    contact: Statement | None = Field(default=None, exclude_if=lambda said: said is None)
    """Address for those whom it decides about."""
    entities: dict[Name, Entity] = Field(min_length=1)
    sources: dict[Name, Source] = Field(min_length=1)
    features: dict[FieldName, Feature] = Field(default_factory=dict)
    """Empty: every field of the target's-entity sources that is neither protected, personal, target nor
    the rows' weight.
    """
    targets: dict[FieldName, Target] = Field(min_length=1, max_length=1)
    split: Split | None = None
    """Default: by the first entity."""
    training: Training = Training()
    model: ModelSpec = Mlp()
    trainer: Trainer = Trainer()
    tuner: Tuner = Field(default=Tpe(), exclude_if=lambda said: said == Tpe())
    decision: Decision = Decision()
    audit: Audit = Audit()
    promotion: Promotion = Promotion()
    serving: Serving = Serving()
    edge: Edge = Field(default=Edge(), exclude_if=lambda said: said == Edge())

    @property
    def entity(self) -> str:
        """The first entity: Kafka key, split unit, erasure unit."""
        return next(iter(self.entities))

    @property
    def key(self) -> str:
        """The event field that names the first entity."""
        return self.entities[self.entity].key

    def members(self) -> tuple[Pipeline, ...]:
        """The pipeline once for each model that it trains: of an ensemble for every member, with its own
        `trainer` where it has one.
        """
        if not isinstance(self.model, Ensemble):
            return (self,)
        if not self.model.trainers:
            return tuple(self.model_copy(update={"model": member}) for member in self.model.members)
        pairs = zip(self.model.members, self.model.trainers, strict=False)
        return tuple(self.model_copy(update={"model": one, "trainer": trainer}) for one, trainer in pairs)

    @property
    def margin_by_data(self) -> bool:
        """True where the rows at hand say how much worse than the champion may be: no file named it."""
        return self.defaults > 1 and "max_drop" not in self.promotion.model_fields_set

    @property
    def serves_unjudged(self) -> bool:
        """True where a version may serve though no gate was judged: before `defaults: 2` all might."""
        return self.defaults == 1 or self.promotion.without_gates == "allowed"

    @property
    def target(self) -> Target:
        return next(iter(self.targets.values()))

    def field(self, reference: str) -> SourceField:
        """`applications.income` → its declaration. Raises KeyError."""
        source, _, name = reference.partition(".")
        return self.sources[source].fields[name]

    def reference(self, name: str) -> str:
        """The `source.field` that a bare field name means. Raises KeyError where no source, or more
        than one, has it.
        """
        found = [f"{source}.{name}" for source, declared in self.sources.items() if name in declared.fields]
        if len(found) != 1:
            raise KeyError(name)
        return found[0]

    def withheld(self, source: str) -> frozenset[str]:
        """Fields of the source whose values do not leave a site, pseudonymized ones too. Raises KeyError."""
        declared, named = self.sources[source], self.edge.may_leave
        always = {declared.id, declared.timestamp, self.entities[declared.entity].key}
        return self.pseudonymized(source) | {
            name
            for name, field in declared.fields.items()
            if name not in always and (field.personal if named is None else name not in named)
        }

    def pseudonymized(self, source: str) -> frozenset[str]:
        """Fields of the source that leave a site as pseudonyms. Raises KeyError."""
        declared = self.sources[source]
        known = {*declared.fields, self.entities[declared.entity].key}
        return frozenset(known.intersection(self.edge.pseudonymize))

    def features_withheld(self) -> list[tuple[str, str]]:
        """Lists features, each with its `source.field`, whose values do not leave a site as they are."""
        declared = {name: one.source_field for name, one in self.features.items()}
        references = declared or {one.partition(".")[2]: one for one in self.default_features()}
        kept_back = {f"{source}.{field}" for source in self.sources for field in self.withheld(source)}
        return [(name, reference) for name, reference in references.items() if reference in kept_back]

    def default_features(self) -> list[str]:
        """Lists as `source.field` all that may be seen and is neither the target nor the rows' weight."""
        return [
            reference
            for source_name, source in self.sources.items()
            for name, field in source.fields.items()
            if not (field.protected or field.personal)
            and (reference := f"{source_name}.{name}") != self.target.source_field
            and reference != self.training.sample_weight
        ]

    def resolved_features(self) -> dict[str, Treatment]:
        """The declared features, or the default ones, each with every choice made for its field's
        type and the model's family.
        """
        declared = self.features or {
            reference.partition(".")[2]: ByField(source_field=reference)
            for reference in self.default_features()
        }
        model = self.model
        return {
            name: treated(one, self.field(one.source_field), model.treatments, model.scale)
            for name, one in declared.items()
        }
