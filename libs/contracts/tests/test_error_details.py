"""An error comes out of a failed call as it went in, and one of another peer by its status."""

from __future__ import annotations

from enum import Enum

import pytest

from penstock.contracts.error_details import KEY, Metadata, error_in, error_of_call, metadata_of
from penstock.contracts.errors import TREATMENTS, Invalid, Kind, error_of


class Code(Enum):
    """Some of grpc.StatusCode."""

    NOT_FOUND = 5
    FAILED_PRECONDITION = 9
    UNKNOWN = 2


class Failed:
    def __init__(self, code: Code, details: str | None, metadata: Metadata | None) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> Code:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> Metadata | None:
        return self._metadata


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(("where", "remedy"), [(None, None), ("pipeline.yaml:3:1", "Write it")])
def test_every_kind_comes_back_with_its_place_and_remedy(
    kind: Kind, where: str | None, remedy: str | None
) -> None:
    sent = error_of(kind, "it does not fit", where=where, remedy=remedy)
    told = error_in([("x-other", "1"), *metadata_of(sent)])
    assert type(told) is type(sent)
    assert told is not None
    assert (told.message, told.where, told.remedy) == ("it does not fit", where, remedy)


def test_the_status_is_the_one_of_the_table() -> None:
    from google.rpc import code_pb2, status_pb2

    for kind, treatment in TREATMENTS.items():
        ((key, value),) = metadata_of(error_of(kind, "it does not fit", remedy="Write it"))
        status = status_pb2.Status.FromString(value)
        assert key == KEY
        assert status.code == code_pb2.Code.Value(treatment.grpc_status)
        assert status.message == "it does not fit. Write it"


def test_a_kind_of_a_later_release_is_the_one_of_its_status() -> None:
    sent = metadata_of(error_of(Kind.NOT_FOUND, "no such model"))
    later = [(key, value.replace(b"not_found", b"not_built")) for key, value in sent]
    told = error_of_call(Failed(Code.FAILED_PRECONDITION, "no such model", later))
    assert (told.kind, str(told)) == (Kind.CONFLICT, "no such model")


def test_another_peers_error_is_of_its_statuss_kind() -> None:
    from google.rpc import status_pb2

    foreign = [(KEY, status_pb2.Status(code=5, message="no").SerializeToString())]
    assert error_in(foreign) is None
    assert error_in(None) is None
    missing = error_of_call(Failed(Code.NOT_FOUND, "no such model", foreign))
    assert (missing.kind, str(missing)) == (Kind.NOT_FOUND, "no such model")
    refused = error_of_call(Failed(Code.FAILED_PRECONDITION, None, None))
    assert (refused.kind, str(refused)) == (Kind.CONFLICT, "FAILED_PRECONDITION")
    assert error_of_call(Failed(Code.UNKNOWN, "", None)).kind is Kind.INTERNAL


def test_a_question_is_no_sentence_that_a_stop_is_missing_from() -> None:
    asking = Invalid("no source `x`. Did you mean `y`?", remedy="Or declare it")
    assert str(asking) == "no source `x`. Did you mean `y`? Or declare it"
    assert str(Invalid("no source `x`", where="a", remedy="Declare it")) == "a: no source `x`. Declare it"
