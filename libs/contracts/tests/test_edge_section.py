"""`edge`: what may leave a site, and files that would have ingest reject all that comes from one."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.load import BadPipeline, read
from penstock.contracts.pipeline import Pipeline

TEXT = """\
version: 1
pipeline: loans
entities: {applicant: {key: applicant_id}}
sources:
  applications:
    entity: applicant
    id: application_id
    timestamp: at
    fields:
      applicant_id: {type: text, personal: true}
      income: {type: number}
      note: {type: text, personal: true}
      kind: {type: category, personal: true, values: [a, b]}
      code: {type: text, personal: true, max_length: 10}
      job: {type: category}
      sex: {type: category, personal: true, required: true}
      defaulted: {type: boolean}
targets: {defaulted: {from: applications.defaulted, type: binary}}
"""


def problems(edge: str) -> list[str]:
    with pytest.raises(BadPipeline) as bad:
        read(TEXT + f"edge: {edge}\n")
    return [problem.show("f").partition("  ")[2] for problem in bad.value.problems]


def test_by_default_what_is_personal_stays() -> None:
    file = read(TEXT)  # it may be of a pipeline that no site serves
    assert file.withheld("applications") == {"note", "sex", "kind", "code"}
    assert "edge" not in file.model_dump()


def test_a_list_says_all_that_leaves_beside_the_key() -> None:
    file = read(TEXT + "edge: {may_leave: [income, sex]}\n")
    assert file.withheld("applications") == {"note", "defaulted", "kind", "code", "job"}
    again: Any = Pipeline.model_validate_json(file.model_dump_json(by_alias=True))
    assert again == file


def test_a_pseudonym_leaves_in_place_of_a_value_also_of_a_required_one() -> None:
    file = read(TEXT + "edge: {may_leave: [income], pseudonymize: [sex, note, applicant_id]}\n")
    assert file.pseudonymized("applications") == {"sex", "note", "applicant_id"}
    assert file.withheld("applications") > file.pseudonymized("applications")


def test_a_key_by_which_sources_are_joined_has_no_pseudonym() -> None:
    of_the_same = "  payments: {entity: applicant, id: i, timestamp: at, fields: {paid: {type: number}}}\n"
    text = TEXT.replace("targets:", f"{of_the_same}targets:")
    with pytest.raises(BadPipeline) as bad:
        read(text + "edge: {may_leave: [sex], pseudonymize: [applicant_id]}\n")
    assert "sources are joined by `applicant_id`" in bad.value.problems[0].message


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        ("{may_leave: [income]}", "edge.may_leave: `applications.sex` is required and may not leave a site"),
        ("{}", "edge.may_leave: `applications.sex` is required and may not leave a site"),
        ("{may_leave: [sex, incom]}", "edge.may_leave[1]: no source has a field `incom`; did you mean"),
        ("{may_leave: [sex, sex]}", "edge.may_leave[0]: `sex` is listed twice"),
        (
            "{may_leave: [sex], pseudonymize: [income]}",
            "edge.pseudonymize[0]: `applications.income` is a number, and a pseudonym is a text",
        ),
        (
            "{may_leave: [sex], pseudonymize: [sex]}",
            "edge.pseudonymize[0]: `sex` leaves as it is, by `may_leave`",
        ),
        (
            "{may_leave: [sex], pseudonymize: [note, kind]}",
            "edge.pseudonymize[1]: `applications.kind` has `values`",
        ),
        (
            "{may_leave: [sex], pseudonymize: [code]}",
            "edge.pseudonymize[0]: `applications.code` has at most 10 characters, and a pseudonym 32",
        ),
        (
            "{may_leave: [sex], pseudonymize: [at]}",
            "edge.pseudonymize[0]: `at` is an id or a timestamp, which leave always",
        ),
        (
            "{may_leave: [sex], pseudonymize: [job]}",
            "edge.pseudonymize[0]: `applications.job` is learned from",
        ),
        (
            "{may_leave: [sex], pseudonymize: [applicant]}",
            "edge.pseudonymize[0]: no source has a field `applicant`; did you mean `applicant_id`?",
        ),
        ("{may_leaf: [sex]}", "edge.may_leaf: no key `may_leaf`; did you mean `may_leave`?"),
    ],
)
def test_what_cannot_be_meant_is_refused(edge: str, said: str) -> None:
    assert problems(edge)[0].startswith(said)


WITHOUT_SEX = TEXT.replace("      sex: {type: category, personal: true, required: true}\n", "")


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        (
            "{may_leave: [note], fallback: {when: missing}}",
            "edge.fallback: the model reads `income` of `applications.income`, which may not leave a site",
        ),
        ("{fallback: {when: missing, within: 31s}}", "edge.fallback.within: write more than 0s, and at most"),
        ("{fallback: {when: missing, within: 0s}}", "edge.fallback.within: write more than 0s, and at most"),
        ("{label_below: 1.5}", "edge.label_below: input should be less than or equal to 1"),
    ],
)
def test_a_fallback_that_cannot_be_asked_is_refused(edge: str, said: str) -> None:
    with pytest.raises(BadPipeline) as bad:
        read(WITHOUT_SEX + f"edge: {edge}\n")
    assert bad.value.problems[0].show("f").partition("  ")[2].startswith(said)


def test_a_personal_feature_stays_at_the_site_and_so_does_the_question() -> None:
    text = WITHOUT_SEX + "features: {note: {from: applications.note}}\n"
    with pytest.raises(BadPipeline, match=r"reads `note` of `applications\.note`"):
        read(text + "edge: {fallback: {when: missing}}\n")
    assert read(text + "edge: {may_leave: [note, income], fallback: {when: missing}}\n").edge.fallback


def test_a_number_has_no_confidence() -> None:
    text = WITHOUT_SEX.replace(
        "targets: {defaulted: {from: applications.defaulted, type: binary}}",
        "targets: {income: {from: applications.income, type: regression}}",
    )
    with pytest.raises(BadPipeline, match=r"edge\.label_below: a number has no decision's edge"):
        read(text + "edge: {label_below: 0.1}\n")


def test_what_a_file_does_not_name_is_in_no_package() -> None:
    """So that sites of an earlier release read it."""
    assert read(WITHOUT_SEX + "edge: {may_leave: [income]}\n").edge.model_dump() == {"may_leave": ("income",)}
