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

NO_TYPE = ""  # the type that is meant where the key is null or left out, and that has no name to write


class _Unused:
    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> NoReturn:
        raise PydanticOmit  # editors shall not offer it


_UNUSED = _Unused()
Unused = Annotated[T, _UNUSED]
"""A key that releases up to 0.1 read with every type of its section and used with another one. What
they stored is still read, and written as they wrote it, so that its digest stays; a file that names
the key is refused.
"""


@dataclass(frozen=True)
class OneOf:
    """Annotates a union of models that are told apart by the literal under `key`. One model alone
    is a union too. `alone`: a type's name may stand for the mapping, `format: json`.
    """

    key: str = "type"
    alone: bool = False

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
        return "".join(get_args(model.model_fields[self.key].annotation)) or NO_TYPE


def _named(key: str, tag: str, model: type[BaseModel]) -> core_schema.CoreSchema:
    return core_schema.no_info_after_validator_function(
        lambda name: model(**{key: name}), core_schema.literal_schema([tag])
    )


@dataclass(frozen=True)
class Section:
    """A place of the file that holds mappings of one model, or of one of several (`union`): one
    mapping, or (`held`) several under names, "{}", or in a list, "[]".
    """

    models: tuple[type[BaseModel], ...]
    union: OneOf | None = None
    held: str = ""

    def types(self) -> dict[str, type[BaseModel]]:
        """The models of a union by the names of their types."""
        return {self.union.tag(model): model for model in self.models} if self.union else {}

    def shared(self) -> set[str]:
        """Keys that every type has, but for the one that names it."""
        return set.intersection(*(set(own_fields(model)) for model in self.models)) - (
            {self.union.key} if self.union else set()
        )


@dataclass(frozen=True)
class Place:
    """Place of an error: the keys that lead there, as in the file, the section that the last one
    belongs into (where the key is known, the one that it holds, if any), and its chosen model.
    """

    path: Path
    section: Section | None
    model: type[BaseModel] | None

    def foreign(self) -> str | None:
        """A sentence on a last key that is another type's; None where no type has it."""
        if self.section is None or self.section.union is None or self.model is None:
            return None
        name, key, mine = str(self.path[-1]), self.section.union.key, self.section.union.tag(self.model)
        types = self.section.types().items()
        owners = [tag for tag, model in types if tag != NO_TYPE and name in own_fields(model)]
        told = f"with `{key}: {mine}`" if mine != NO_TYPE else f"without `{key}`"
        return f"`{name}` is for `{key}: {' or '.join(owners)}` and means nothing {told}" if owners else None


def section_of(annotation: Any, held: str = "") -> Section | None:
    """The section that an annotation describes; None where it holds scalars."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (dict, tuple):
        return section_of(parts[1], "{}") if origin is dict else section_of(parts[0], "[]")
    if origin is Annotated:
        union = next((mark for mark in parts[1:] if isinstance(mark, OneOf)), None)
        return Section(models_of(parts[0]), union, held) if union else section_of(parts[0], held)
    models = models_of(annotation)
    return Section(models, held=held) if models else None


def models_of(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models of a union, or the one that it is."""
    parts = get_args(annotation) or (annotation,)
    return tuple(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's keys, as the file names them, without those that mean nothing."""
    fields = model.model_fields.items()
    return {field.alias or name: field for name, field in fields if _UNUSED not in field.metadata}


def section_at(root: type[BaseModel], path: Sequence[str]) -> Section | None:
    """Returns the section under these keys; None where there are scalars or is no such key."""
    section = Section((root,))
    steps = iter(path)
    for step in steps:
        fields = {key: field for model in section.models for key, field in own_fields(model).items()}
        found = section_of(fields[step].rebuild_annotation()) if step in fields else None
        if found is None:
            return None
        section = found
        if section.held:
            next(steps, None)
    return section


def locate(root: type[BaseModel], error: ErrorDetails) -> Place:
    """The place of a validation error, without what pydantic's `loc` has besides the file's keys:
    the names of types, `[key]`, the branch of a union of scalars.
    """
    path: list[str | int] = []
    section: Section | None = Section((root,))
    model: type[BaseModel] | None = root
    steps = [step for step in error["loc"] if step != "[key]"]
    while steps and (model or isinstance(steps[0], int)):
        path.append(steps.pop(0))
        if model is None:
            continue
        field = own_fields(model).get(str(path[-1]))
        if field is None:
            break
        annotation = field.rebuild_annotation()
        section, model = section_of(annotation), None
        if steps and (section.held if section else get_origin(annotation) is dict):
            path.append(steps.pop(0))
        if section and not section.union:
            (model,) = section.models
        elif section and steps:
            model = section.types()[str(steps.pop(0)).removeprefix("=")]
    if error["type"] == "union_tag_invalid" and section and section.union:
        path += [section.union.key] if isinstance(error["input"], Mapping) else []
    return Place(tuple(path), section, model)


def choice(place: Place, error: ErrorDetails) -> tuple[str, list[str]]:
    """Returns what was written where a word had to be chosen, and the words that may be."""
    if error["type"] == "union_tag_invalid" and place.section:
        return str(error["ctx"]["tag"]), [tag for tag in place.section.types() if tag != NO_TYPE]
    expected = str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")
    return str(error["input"]), [word.strip(" '") for word in expected]


def unused(value: Any, section: Section | None = None, path: Path = ()) -> Iterator[Place]:
    """Keys that a pipeline, or a part of it at `path`, names and the types it chose do not take."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            at, found = (*path, field.alias or name), getattr(value, name)
            if _UNUSED not in field.metadata:
                yield from unused(found, section_of(field.rebuild_annotation()), at)
            elif name in value.model_fields_set and found is not None:
                yield Place(at, section, type(value))
    elif isinstance(value, dict | tuple):
        for step, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from unused(part, section, (*path, step))
