"""Formulas of a tuner's objectives: read by a parser, worth what Python says that they are worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.formula import LONGEST, parse

NAMES = {"train_loss": 0.5, "validation_loss": 2.0, "f1": -3.0}

texts = st.recursive(
    st.sampled_from([*NAMES, "4", "0.25", "1e-3", ".5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", " * ", "+", "-", "*"]), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=12,
).filter(lambda text: len(text) <= LONGEST)


@given(texts)
def test_a_formula_is_worth_what_python_says(text: str) -> None:
    worth = eval(text, {"__builtins__": {}}, NAMES)
    assert parse(text)(NAMES) == pytest.approx(worth, rel=1e-12, abs=1e-12)


def test_names_are_those_of_the_text_each_once() -> None:
    assert parse("b.sex + a - 2 * (b.sex + a)").names == ("b.sex", "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ends where a value must follow"),
        ("1 +", "ends where a value must follow"),
        ("(a", "ends where a bracket is open"),
        ("a)", "character 2: no bracket is open here"),
        ("a b", "character 3: a sign must stand here"),
        ("* a", "character 1: a value must stand here"),
        ("a ** b", "character 4: a value must stand here"),
        ("open(a)", "character 5: a sign must stand here"),
        ("a / b", "character 3: write numbers, names"),
        ("a.b.c", "character 4: write numbers"),
        ("lambda: 1", "character 7: write numbers"),
        ("1e999", "character 1: 1e999 is too large"),
        ("(" * (LONGEST + 1), "longer than"),
        ("(" * LONGEST, "ends where a value must follow"),
    ],
)
def test_what_is_no_formula_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("*", r"\*").replace("(", r"\(")):
        parse(text)
