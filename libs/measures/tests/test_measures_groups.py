from __future__ import annotations

import numpy as np
import pytest

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Group
from penstock.measures.groups import NOT_STATED, called, compare_not_stated, divide


def test_distinct_values_are_groups_in_order() -> None:
    grouping = divide("sex", ["Male", "Female", None, "Male", ""])
    assert grouping.groups == ("Female", "Male")
    assert grouping.codes.tolist() == [1, 0, -1, 1, -1]
    assert grouping.not_stated == 2


def test_bins_are_inner_edges_and_close_on_the_left() -> None:
    grouping = divide("age", [24.9, 25.0, 39.0, 40.0, float("nan"), 90], bins=[25, 40])
    assert grouping.groups == ("<25", "25-40", ">=40")
    assert grouping.codes.tolist() == [0, 1, 1, 2, -1, 2]


def test_a_bin_without_rows_is_no_group() -> None:
    grouping = divide("age", [10.0, 70.0], bins=[25, 40])
    assert grouping.groups == ("<25", ">=40")
    assert grouping.codes.tolist() == [0, 1]


def test_booleans_and_numbers_read_as_people_write_them() -> None:
    assert divide("flag", [True, False]).groups == ("false", "true")
    assert divide("children", [2.0, 0.0, 10.0]).groups == ("0", "2", "10")


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (["1.0", "0.0", None], ("0", "1")),  # as a program writes a column with gaps
        (["1.0", "1", "0"], ("0", "1", "1.0")),  # two values, and so two groups
        (["1.0", "1.5"], ("1.0", "1.5")),
        (["10.0", "unknown"], ("10", "unknown")),
    ],
)
def test_whole_numbers_in_texts_lose_their_point(values: list[str | None], groups: tuple[str, ...]) -> None:
    found = divide("married", values)
    assert found.groups == groups
    assert [found.groups[code].removesuffix(".0") for code in found.codes if code >= 0] == [
        value.removesuffix(".0") for value in values if value
    ]


@pytest.mark.parametrize("value", ["1", "-1", "2.5", "true"])
def test_a_number_is_called_by_its_column(value: str) -> None:
    assert called("black", value) == f"black = {value}"


@pytest.mark.parametrize("value", ["Female", "<25", "25-40", NOT_STATED])
def test_a_name_that_says_something_stays(value: str) -> None:
    assert called("of", value) == value


def test_a_number_without_bins_is_refused_with_what_to_change() -> None:
    with pytest.raises(Invalid, match=r"100 distinct values") as refused:
        divide("income", np.arange(100.0))
    assert refused.value.remedy is not None
    assert "audit.groups.income.bins" in refused.value.remedy


def test_bins_over_words_are_refused() -> None:
    with pytest.raises(Invalid, match="no numbers"):
        divide("age", ["young", "old"], bins=[25])


def test_nobody_hides_by_not_saying_and_one_person_does_not_stop_everything() -> None:
    labels = np.array([0, 1] * 10)
    few = divide("sex", ["F"] * 9 + ["M"] * 10 + [None])
    assert compare_not_stated(few, labels, 2, min_rows=3).left_out
    many = compare_not_stated(divide("sex", ["F"] * 10 + [None] * 10), labels, 2, min_rows=3)
    assert many.groups == ("F", NOT_STATED)
    assert many.cells(labels, 2).tolist() == [[5, 5], [5, 5]]


def test_values_may_be_merged_into_one_group() -> None:
    asked = Group(merge={"other": ("a", "b")})
    found = divide("race", ["b", "white", "a", None, "white"], merged=asked.name)
    assert found.groups == ("other", "white")
    assert found.codes.tolist() == [0, 1, 0, -1, 1]
