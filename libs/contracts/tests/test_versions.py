"""A version has one short name, and what people write for it is read in one way."""

from __future__ import annotations

import pytest

from penstock.contracts.digests import digest_of, digits_of, short_digest
from penstock.contracts.errors import Invalid
from penstock.contracts.versions import VersionReference, version_name

DIGEST = "sha256:" + "3f9c12ab" * 8


def test_people_read_the_first_digits() -> None:
    assert digits_of(DIGEST) == DIGEST[7:]
    assert short_digest(DIGEST) == "3f9c12ab"
    assert version_name("adult-income", DIGEST) == "adult-income@3f9c12ab"
    assert version_name("adult-income", DIGEST, 16) == "adult-income@3f9c12ab3f9c12ab"


def test_a_digest_names_its_algorithm() -> None:
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "pipeline", "prefix"),
    [
        ("3f9c", None, "sha256:3f9c"),
        (" adult-income@3f9c12ab ", "adult-income", "sha256:3f9c12ab"),
        (DIGEST, None, DIGEST),
        (f"a@{DIGEST}", "a", DIGEST),
    ],
)
def test_a_reference_is_the_beginning_of_a_digest(text: str, pipeline: str | None, prefix: str) -> None:
    assert VersionReference.parse(text) == VersionReference(pipeline, prefix)


@pytest.mark.parametrize("text", ["", "3f9", "adult-income", "@3f9c", "Adult@3f9c", "3F9C", DIGEST + "0"])
def test_anything_else_says_what_to_write(text: str) -> None:
    with pytest.raises(
        Invalid, match=r"write a digest or at least its first 4 digits, as in adult-income@3f9c"
    ):
        VersionReference.parse(text)
