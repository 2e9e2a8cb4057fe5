"""Sections that come in types: `model: {type: mlp, hidden: [64]}`. The type decides which other
keys there are.

A type is a model of its own whose `type` is a literal, and one line in its union:
`ModelSpec = Annotated[Mlp | Linear, OneOf()]`. The type with a default is the one meant where
nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticOmit, core_schema

Path = tuple[str | int, ...]
T = TypeVar("T")

NO_TYPE = ""
"""Name of the type that is meant where the key is null or left out, and that has none to write."""


class _Unused:
    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> NoReturn:
        raise PydanticOmit  # editors shall not offer it


Unused = Annotated[T, _Unused()]
"""A key that releases up to 0.1 read with every type of its section and used with another one. What
they stored is still read, and written as they wrote it, so that its digest stays; a file that names
the key is refused.
"""


@dataclass(frozen=True)
class OneOf:
    """Annotates a union of models that are told apart by the literal under `key`. One model alone
    is a union too.
    """

    key: str = "type"
    alone: bool = False
    """Whether a type's name may stand for the mapping: `format: json`."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        models = {self.tag(model): model for model in models_of(source)}
        choices: dict[Any, core_schema.CoreSchema] = {
            tag: handler.generate_schema(model) for tag, model in models.items()
        }
        choices |= {f"={tag}": _named(self.key, tag, models[tag]) for tag in self.names(models.values())}
        meant = next(tag for tag, model in models.items() if not model.model_fields[self.key].is_required())

        def tag_of(value: Any) -> str:
            if isinstance(value, Mapping):
                said = value.get(self.key, meant)
            elif self.alone and isinstance(value, str):
                said = f"={value}" if f"={value}" in choices else value
            else:
                said = getattr(value, self.key, meant)
            return NO_TYPE if said is None and NO_TYPE in models else str(said)

        return core_schema.tagged_union_schema(choices, tag_of)

    def names(self, models: Iterable[type[BaseModel]]) -> list[str]:
        """The types whose name may stand for the mapping: those without another required key."""
        return [
            self.tag(model)
            for model in models
            if self.alone
            and not any(field.is_required() for key, field in model.model_fields.items() if key != self.key)
        ]

    def tag(self, model: type[BaseModel]) -> str:
        """The type's name: `mlp`."""
        (said,) = get_args(model.model_fields[self.key].annotation) or (None,)
        return NO_TYPE if said is None else str(said)


def _named(key: str, tag: str, model: type[BaseModel]) -> core_schema.CoreSchema:
    return core_schema.no_info_after_validator_function(
        lambda name: model(**{key: name}), core_schema.literal_schema([tag])
    )


@dataclass(frozen=True)
class Section:
    """A place of the file that holds mappings of one model, or of one of several."""

    models: tuple[type[BaseModel], ...]
    union: OneOf | None = None

    def types(self) -> dict[str, type[BaseModel]]:
        """The models of a union by the names of their types."""
        return {self.union.tag(model): model for model in self.models} if self.union else {}

    def shared(self) -> set[str]:
        """Keys that every type has, but for the one that names it."""
        every = set.intersection(*(set(own_fields(model)) for model in self.models))
        return every - ({self.union.key} if self.union else set())


@dataclass(frozen=True)
class Place:
    """Place of an error, and what may stand there."""

    path: Path
    """The keys that lead there, as in the file."""
    section: Section | None
    """Section that the last key belongs into; where the key is known, the section that it holds, if any."""
    model: type[BaseModel] | None
    """The section's model that was chosen."""

    def keys(self) -> list[str]:
        """Known keys beside an unknown last key."""
        return list(own_fields(self.model)) if self.model else []

    def foreign(self) -> str | None:
        """A sentence on a last key that is another type's; None where no type has it."""
        if self.section is None or self.section.union is None or self.model is None:
            return None
        name, key, mine = str(self.path[-1]), self.section.union.key, self.section.union.tag(self.model)
        types = self.section.types().items()
        owners = [tag for tag, model in types if tag != NO_TYPE and name in own_fields(model)]
        if not owners:
            return None
        told = f"with `{key}: {mine}`" if mine != NO_TYPE else f"without `{key}`"
        return f"`{name}` is for `{key}: {' or '.join(owners)}` and means nothing {told}"


def section_of(annotation: Any) -> tuple[Section | None, str]:
    """Returns the section of an annotation, and how it is held: "" (one), "{}" (under names), "[]"
    (a list). No section where it holds scalars.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        union = next((mark for mark in parts[1:] if isinstance(mark, OneOf)), None)
        return (Section(models_of(parts[0]), union), "") if union else section_of(parts[0])
    if origin is dict:
        return section_of(parts[1])[0], "{}"
    if origin is tuple:
        return section_of(parts[0])[0], "[]"
    models = models_of(annotation)
    return Section(models) if models else None, ""


def models_of(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models of a union, or the one that it is."""
    parts = get_args(annotation) or (annotation,)
    return tuple(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's keys, as the file names them, without those that mean nothing."""
    return {field.alias or name: field for name, field in model.model_fields.items() if not _is_unused(field)}


def _is_unused(field: FieldInfo) -> bool:
    return any(isinstance(mark, _Unused) for mark in field.metadata)


def section_at(root: type[BaseModel], path: Sequence[str]) -> Section | None:
    """Returns the section under these keys; None where there are scalars or is no such key."""
    section: Section | None = Section((root,))
    steps = list(path)
    while steps and section is not None:
        fields = {name: field for model in section.models for name, field in own_fields(model).items()}
        field = fields.get(steps.pop(0))
        section, held = section_of(field.rebuild_annotation()) if field else (None, "")
        if held and steps:
            steps.pop(0)
    return section


def locate(root: type[BaseModel], error: ErrorDetails) -> Place:
    """The place of a validation error, without what pydantic's `loc` has besides the file's keys:
    the names of types, `[key]`, the branch of a union of scalars.
    """
    path: list[str | int] = []
    section: Section | None = Section((root,))
    model: type[BaseModel] | None = root
    steps = [step for step in error["loc"] if step != "[key]"]
    while steps:
        step = steps.pop(0)
        if model is None and not isinstance(step, int):
            break
        path.append(step)
        if model is None:
            continue
        field = own_fields(model).get(str(step))
        if field is None:
            break
        section, held = section_of(field.rebuild_annotation())
        if held and steps:
            path.append(steps.pop(0))
        if section is None or section.union is None:
            model = section.models[0] if section else None
        else:
            model = section.types()[str(steps.pop(0)).removeprefix("=")] if steps else None
    if error["type"] == "union_tag_invalid" and isinstance(error["input"], Mapping):
        assert section is not None
        assert section.union is not None
        path.append(section.union.key)
    return Place(tuple(path), section, model)


def choice(place: Place, error: ErrorDetails) -> tuple[str, list[str]]:
    """Returns what was written where a word had to be chosen, and the words that may be."""
    if error["type"] == "union_tag_invalid":
        assert place.section is not None
        return str(error["ctx"]["tag"]), [tag for tag in place.section.types() if tag != NO_TYPE]
    expected = str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")
    return str(error["input"]), [word.strip(" '") for word in expected]


def unused(root: BaseModel) -> Iterator[Place]:
    """Keys that the pipeline names and the types it chose do not take."""

    def within(value: Any, section: Section | None, path: Path) -> Iterator[Place]:
        if isinstance(value, dict | tuple):
            for step, part in value.items() if isinstance(value, dict) else enumerate(value):
                yield from within(part, section, (*path, step))
        if not isinstance(value, BaseModel):
            return
        for name, field in type(value).model_fields.items():
            at, found = (*path, field.alias or name), getattr(value, name)
            if not _is_unused(field):
                yield from within(found, section_of(field.rebuild_annotation())[0], at)
            elif name in value.model_fields_set and found is not None:
                yield Place(at, section, type(value))

    yield from within(root, None, ())
