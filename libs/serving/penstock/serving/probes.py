"""Probe rows: a loaded model must answer them as the package says it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite

from penstock.packages.parts import Probes
from penstock.serving.protocol.tensors import Numbers, Strings, Tensor, Undecodable


@dataclass(frozen=True)
class ProbeRows:
    """Part of the probes, and the expected answers."""

    first: int  # index of the first row among all probes
    numbers: Numbers
    strings: Strings
    outputs: dict[str, tuple[tuple[float | str, ...], ...]]


def batches(probes: Probes, size: int) -> Iterator[ProbeRows]:
    """Divides the probes into parts of at most `size` rows."""
    count = len(next(iter(probes.outputs.values())))
    for first in range(0, count, size):
        part = slice(first, first + size)
        yield ProbeRows(
            first,
            probes.numbers[part],
            probes.strings[part],
            {name: rows[part] for name, rows in probes.outputs.items()},
        )


def difference(rows: ProbeRows, answers: dict[str, Tensor], tolerance: float) -> str | None:
    """Describes the first answer that is not the expected one; None when all are as expected."""
    for output, expected in rows.outputs.items():
        if output not in answers:
            return f"there is no output {output}"
        try:
            found = answers[output].matrix(len(expected[0]), output)
        except Undecodable as error:
            return str(error)
        if len(found) != len(expected):
            return f"{output} has {len(found)} rows for {len(expected)}"
        for index, (got, want) in enumerate(zip(found, expected, strict=True)):
            if not all(_same(a, b, tolerance) for a, b in zip(got, want, strict=True)):
                return (
                    f"probe row {rows.first + index} gives {output} {_text(got)}, the package says"
                    f" {_text(want)}"
                )
    return None


def _same(got: object, want: object, tolerance: float) -> bool:
    if isinstance(want, str) or isinstance(got, str):
        return got == want
    return (
        isinstance(got, float | int)
        and isinstance(want, float | int)
        and isfinite(got)
        and abs(got - want) <= tolerance
    )


def _text(row: Iterable[object]) -> str:
    return ", ".join(f"{value:.7g}" if isinstance(value, float) else str(value) for value in row)
