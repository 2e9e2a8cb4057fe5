"""Pipeline files edited in place: overrides of a run written in, so that later runs have them too, and
`serving.stopped`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.load import read
from penstock.contracts.overrides import changed, overridden


def rewritten(text: str, overrides: Mapping[str, JsonValue], file: str, pipeline: str = "") -> str:
    """The file's text with the overrides in it. Sections that they leave alone stay as they are, to the
    byte; in those that change, comments stay.

    Raises Invalid for a file that is wrong, that is another pipeline's or that the overrides do not fit.
    """
    found = read(text, file)
    if pipeline not in ("", found.pipeline):
        raise Invalid(f"is the file of pipeline `{found.pipeline}`, not of `{pipeline}`", where=file)
    applied = found.model_dump(mode="json", by_alias=True, exclude_unset=True)
    plain = _plain(text)
    new = _edited(text, plain, changed(plain, overrides))
    if read(new, file) != overridden(applied, overrides):
        raise Conflict("cannot be edited without changing more than the overrides", where=file)
    return new


def with_stopped(text: str, why: str | None, file: str) -> str:
    """The file's text with `serving.stopped`, or without it where `why` is None. JSON, and what else has no
    lines of its own for each section, is written anew. Raises Invalid for a file that is wrong.
    """
    found, plain = read(text, file), _plain(text)
    if found.serving.stopped == why:
        return text
    serving = {key: value for key, value in (plain.get("serving") or {}).items() if key != "stopped"}
    serving |= {} if why is None else {"stopped": why}
    wanted = {name: value for name, value in plain.items() if name != "serving"}
    wanted |= {"serving": serving} if serving else {}
    stopped = found.model_copy(update={"serving": found.serving.model_copy(update={"stopped": why})})
    for write in (_edited, _anew):
        with suppress(Invalid, Conflict):
            if read(new := write(text, plain, wanted), file) == stopped:
                return new
    raise Conflict("cannot be edited without changing more than serving.stopped", where=file)


def _plain(text: str) -> dict[str, Any]:
    plain: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return plain


def _edited(text: str, plain: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The text, which says `plain`, with the sections that are wanted."""
    tree, lines = _yaml().load(text), text.splitlines(keepends=True)
    for name, (begin, end) in sorted(_spans(lines, tree).items(), key=lambda found: -found[1][0]):
        if name not in wanted:
            del lines[begin:end]
        elif wanted[name] != plain[name]:
            lines[begin:end] = _section(tree, name, wanted[name])
    for name in [name for name in wanted if name not in plain]:
        lines += ["" if lines[-1].endswith("\n") else "\n", *_section(tree, name, wanted[name])]
    return "".join(lines)


def _anew(text: str, _: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The whole text, written anew with the sections that are wanted."""
    tree, out = _yaml().load(text), io.StringIO()
    _become(tree, wanted)
    _yaml().dump(tree, out)
    return out.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10_000  # no line is broken anew
    return yaml


def _spans(lines: Sequence[str], tree: CommentedMap) -> dict[str, tuple[int, int]]:
    """First line of each section, from 0, and the one after its last that is no comment."""
    begins = sorted((tree.lc.key(name)[0], name) for name in tree)
    ends = [line for line, _ in begins[1:]] + [len(lines)]
    return {
        name: (begin, begin + len(_without_end(lines[begin:end])))
        for (begin, name), end in zip(begins, ends, strict=True)
    }


def _without_end(lines: Sequence[str]) -> Sequence[str]:
    """The lines up to the last that is neither empty nor a comment."""
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines = lines[:-1]
    return lines


def _section(tree: CommentedMap, name: str, wanted: JsonValue) -> Sequence[str]:
    """Lines of the section with the wanted values. Raises Conflict where it is none of whole lines."""
    if isinstance(tree.get(name), CommentedMap) and isinstance(wanted, dict):
        _become(tree[name], wanted)
    else:
        tree[name] = wanted
    alone = CommentedMap({name: tree[name]})
    if beside := tree.ca.items.get(name):
        alone.ca.items[name] = beside
    out = io.StringIO()
    _yaml().dump(alone, out)
    written = out.getvalue().splitlines(keepends=True)
    first = next((at for at, line in enumerate(written) if line.startswith(f"{name}:")), None)
    if first is None:
        raise Conflict(
            "cannot be edited: its key is quoted, or the file is JSON",
            where=name,
            remedy="Write what is to change into the file by hand",
        )
    return _without_end(written[first:])  # lines before and after it stand in the file already


def _become(node: CommentedMap, wanted: Mapping[str, Any]) -> None:
    """Gives the mapping just these values; what is equal stays as it was written."""
    for gone in [name for name in node if name not in wanted]:
        del node[gone]
    for name, value in wanted.items():
        if isinstance(node.get(name), CommentedMap) and isinstance(value, dict):
            _become(node[name], value)
        elif name not in node or node[name] != value:
            node[name] = _flowing(value)


def _flowing(value: JsonValue) -> Any:
    """A list goes on one line, `[64, 32]`."""
    if not isinstance(value, list):
        return value
    listed = CommentedSeq(value)
    listed.fa.set_flow_style()
    return listed
