"""`features`: how a field enters the model. An encoding is a class, and its place in the union."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from penstock.contracts.pipeline.base import FieldReference, Model
from penstock.contracts.pipeline.sources import SourceField
from penstock.contracts.pipeline.variants import OneOf, Unused, own_fields

Impute = Literal["median", "mean", "zero"] | None
Clip = tuple[str | float, str | float] | None
Scale = Literal["standard", "minmax", "robust", "none"] | None
Dimension = Annotated[int | None, Field(ge=1, le=256)]
Vocabulary = Annotated[int | None, Field(ge=1, le=50_000)]
MinCount = Annotated[int | None, Field(ge=1)]


class _Treatment(Model):
    fields: ClassVar[frozenset[str]] = frozenset()  # types of fields that are treated so

    source_field: FieldReference = Field(alias="from")


class Number(_Treatment):
    """A number clipped, imputed and scaled."""

    fields = frozenset({"number"})

    impute: Impute = None
    """Numbers: what a missing value becomes (default median). An indicator of absence is always
    added where the training split has any.
    """
    clip: Clip = None
    """Numbers: bounds, as values or as percentiles of the training split (`p01`)."""
    scale: Scale = None
    """Numbers: to mean 0 and standard deviation 1 (`standard`, most families' default), to [0, 1]
    (`minmax`), to median 0 and quartiles 1 apart (`robust`), or left as they are.
    """


class ByField(Number):
    """Treated as its field's type is by default: a number as these keys say, a category by
    `embedding` where the family takes that, else by `one_hot`, as a boolean is; a text by
    `bag_of_words`.
    """

    fields = frozenset()

    encode: None = None
    dimension: Dimension = None
    """Categories: embedding width; by default min(32, (values + 1) // 2)."""
    vocabulary: Vocabulary = None
    """Texts: words kept, of up to 100 characters, most frequent first; default 1000."""
    min_count: MinCount = None
    """A category or word rarer than this in the training split counts as unknown; default 1."""


class _Encoding(_Treatment):
    impute: Unused[Impute] = None
    clip: Unused[Clip] = None
    scale: Unused[Scale] = None
    dimension: Unused[Dimension] = None
    vocabulary: Unused[Vocabulary] = None
    min_count: MinCount = None
    """A category or word rarer than this in the training split counts as unknown; default 1."""


class Embedding(_Encoding):
    """A category as a few numbers that the model learns."""

    fields = frozenset({"category"})

    encode: Literal["embedding"]
    dimension: Dimension = None
    """Embedding width; by default min(32, (values + 1) // 2)."""


class OneHot(_Encoding):
    """A category or a boolean as one column a value."""

    fields = frozenset({"category", "boolean"})

    encode: Literal["one_hot"]


class BagOfWords(_Encoding):
    """A text as one column a word: how often it occurs, weighed by how rare it is."""

    fields = frozenset({"text"})

    encode: Literal["bag_of_words"]
    vocabulary: Vocabulary = None
    """Words kept, most frequent first; default 1000."""


class _Sequence(_Encoding):
    """A text as its words in their order, each a few numbers that the model learns."""

    fields = frozenset({"text"})

    dimension: int = Field(default=64, ge=1, le=256)
    """Numbers that a word becomes."""
    vocabulary: int = Field(default=10_000, ge=1, le=50_000)
    """Words kept, of up to 100 characters, most frequent first."""
    min_count: int = Field(default=2, ge=1)
    """A word rarer than this in the training split counts as unknown."""
    words: int = Field(default=256, ge=1, le=1024)
    """Words of a text that are read, from its beginning."""


class TextAverage(_Sequence):
    """A text as the mean of its words' embeddings."""

    encode: Literal["text_average"]

    @property
    def columns(self) -> int:
        """Numbers that a text becomes."""
        return self.dimension


class TextCnn(_Sequence):
    """A text by 1-D convolutions over its words' embeddings (Y. Kim, *Convolutional Neural Networks for
    Sentence Classification*, EMNLP 2014): each filter looks for a phrase.
    """

    encode: Literal["text_cnn"]
    widths: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        default=(3, 4, 5), min_length=1, max_length=8
    )
    """Words that a filter looks at, one number for each kind of filter; one alone is
    `widths: [3]`.
    """
    filters: int = Field(default=100, ge=1, le=1024)
    """Filters of each width."""
    pool: Literal["max", "flatten"] = "max"
    """Part of a filter that the model sees: `max` its strongest answer, wherever in the text;
    `flatten` its answer at each of the first `words` places.
    """
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of what the model sees that a training step leaves out."""

    @property
    def columns(self) -> int:
        """Numbers that a text becomes."""
        places = [1 if self.pool == "max" else max(0, self.words - width + 1) for width in self.widths]
        return self.filters * sum(places)


Encoding = Embedding | OneHot | BagOfWords | TextAverage | TextCnn
"""Encodings; of two that take a field's type, the earlier one that the family takes is its default."""
Feature = Annotated[ByField | Encoding, OneOf("encode")]
Treatment = Number | Encoding
"""A feature whose field's type is known."""

_DEFAULTS = {"impute": "median", "vocabulary": 1000, "min_count": 1}


def encoding(model: type[Treatment]) -> str:
    """The name that `encode` gives it; "" for a number's."""
    return str(*get_args(model.model_fields["encode"].annotation)) if "encode" in model.model_fields else ""


ENCODINGS = frozenset(encoding(model) for model in get_args(Encoding))


def fitting(field: SourceField, family: Container[str] = ENCODINGS) -> tuple[type[Treatment], ...]:
    """Treatments that fit the field, its default first; of encodings those of the family."""
    return tuple(
        model
        for model in get_args(Treatment)
        if field.type in model.fields and (model is Number or encoding(model) in family)
    )


def treated(
    feature: Feature, field: SourceField, family: Container[str], scale: Scale = "standard"
) -> Treatment:
    """The feature with every choice made; `scale` where it names none. Where the family takes no
    encoding of the field's type, as any family would.
    """
    default = (fitting(field, family) or fitting(field))[0]
    model = default if isinstance(feature, ByField) else type(feature)
    said = {
        **_DEFAULTS,
        "scale": scale,
        **feature.model_dump(by_alias=True, exclude_none=True),
        "encode": encoding(model),
    }
    own = own_fields(model)
    return model.model_validate({key: value for key, value in said.items() if key in own})
