"""Formulas over measures, `train_loss + 50 * validation_loss`: numbers, names, `+`, `-`, `*`, brackets.

Read by a parser, never by `eval`: a pipeline file comes from anybody who may apply one.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LONGEST = 200  # characters
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)|(?P<sign>[-+*()])"
)
_NEGATIVE = "±"  # `-` before a value rather than between two
_BINDING = {"+": 1, "-": 1, "*": 2, _NEGATIVE: 3}
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True)
class Formula:
    """A formula in postfix order: numbers, names, and signs as `parse` writes them."""

    steps: tuple[float | str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names that it asks for, in the order of the text."""
        return tuple(dict.fromkeys(str(step) for step in self.steps if _is_name(step)))

    def __call__(self, values: Mapping[str, float]) -> float:
        """The formula's value. Raises KeyError for a name without one."""
        stack: list[float] = []
        for step in self.steps:
            if not isinstance(step, str):
                stack.append(step)
            elif step == _NEGATIVE:
                stack.append(-stack.pop())
            elif step in _OPERATORS:
                right = stack.pop()
                stack.append(_OPERATORS[step](stack.pop(), right))
            else:
                stack.append(values[step])
        return stack[0]


def parse(text: str) -> Formula:
    """Reads a formula by the shunting yard (Dijkstra 1961). Raises ValueError that says what is wrong,
    and where.
    """
    steps: list[float | str] = []
    open_: list[str] = []  # signs and brackets that wait for what is to their right
    complete = False  # True after a value, where a sign must follow
    for at, part in _tokens(text):
        value = not isinstance(part, str) or _is_name(part)
        begins = value or part == "("
        if begins == complete and (begins or part != "-"):
            raise ValueError(f"character {at + 1}: a {'sign' if complete else 'value'} must stand here")
        if value:
            steps.append(part)
        elif part == ")":
            while open_ and open_[-1] != "(":
                steps.append(open_.pop())
            if not open_:
                raise ValueError(f"character {at + 1}: no bracket is open here")
            open_.pop()
        elif part == "(":
            open_.append(part)
        else:
            sign = str(part) if complete else _NEGATIVE
            while complete and open_ and _BINDING.get(open_[-1], 0) >= _BINDING[sign]:
                steps.append(open_.pop())
            open_.append(sign)
        complete = value or part == ")"
    if not complete or "(" in open_:
        raise ValueError("it ends where " + ("a bracket is open" if complete else "a value must follow"))
    return Formula((*steps, *reversed(open_)))


def _is_name(step: float | str) -> bool:
    return isinstance(step, str) and (step[0].isalpha() or step[0] == "_")


def _tokens(text: str) -> Iterator[tuple[int, float | str]]:
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"character {at + 1}: write numbers, names, `+`, `-`, `*` and brackets")
        number = found["number"]
        if number and float(number) == float("inf"):
            raise ValueError(f"character {at + 1}: {number} is too large")
        yield at, float(number) if number else found[0]
        at = found.end()
