"""Tree of error kinds, and the table of what each becomes: a gRPC status at the door, retry or
dead letter in a handler.

A message says what is wrong, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    INVALID = "invalid"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    REFUSED = "refused"
    DENIED = "denied"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    CANCELED = "canceled"
    TAMPERED = "tampered"
    INTERNAL = "internal"


@dataclass(frozen=True)
class Treatment:
    grpc_status: str  # Name in grpc.StatusCode
    retry: bool  # May succeed later, unchanged. Otherwise a handler's message is a dead letter.
    exit_code: int


TREATMENTS: dict[Kind, Treatment] = {
    Kind.INVALID: Treatment("INVALID_ARGUMENT", retry=False, exit_code=2),
    Kind.NOT_FOUND: Treatment("NOT_FOUND", retry=False, exit_code=1),
    Kind.CONFLICT: Treatment("FAILED_PRECONDITION", retry=False, exit_code=1),
    Kind.REFUSED: Treatment("FAILED_PRECONDITION", retry=False, exit_code=3),
    Kind.DENIED: Treatment("PERMISSION_DENIED", retry=False, exit_code=1),
    Kind.TOO_LARGE: Treatment("RESOURCE_EXHAUSTED", retry=False, exit_code=1),
    Kind.UNAVAILABLE: Treatment("UNAVAILABLE", retry=True, exit_code=1),
    Kind.DEADLINE: Treatment("DEADLINE_EXCEEDED", retry=True, exit_code=1),
    Kind.CANCELED: Treatment("CANCELLED", retry=False, exit_code=1),
    Kind.TAMPERED: Treatment("DATA_LOSS", retry=False, exit_code=1),
    Kind.INTERNAL: Treatment("INTERNAL", retry=False, exit_code=1),
}


class PenstockError(Exception):
    """Base of all errors that a user may see."""

    kind: Kind = Kind.INTERNAL

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where  # File:line:column, a field, a key, an id
        self.remedy = remedy  # Advice as an imperative sentence

    def __str__(self) -> str:
        said = f"{self.where}: {self.message}" if self.where else self.message
        stop = "" if said.endswith((".", "?", "!")) else "."
        return f"{said}{stop} {self.remedy}" if self.remedy else said


class Invalid(PenstockError):
    kind = Kind.INVALID


class NotFound(PenstockError):
    kind = Kind.NOT_FOUND


class Conflict(PenstockError):
    kind = Kind.CONFLICT


class Refused(PenstockError):
    """Evidence says no."""

    kind = Kind.REFUSED


class Denied(PenstockError):
    """The caller is not who may do this."""

    kind = Kind.DENIED


class TooLarge(PenstockError):
    kind = Kind.TOO_LARGE


class Unavailable(PenstockError):
    """A peer is away or not ready: try again."""

    kind = Kind.UNAVAILABLE


class DeadlineExceeded(PenstockError):
    kind = Kind.DEADLINE


class Canceled(PenstockError):
    kind = Kind.CANCELED


class Tampered(PenstockError):
    """A digest or signature does not hold."""

    kind = Kind.TAMPERED


_CLASSES: dict[Kind, type[PenstockError]] = {
    error.kind: error
    for error in (
        Invalid,
        NotFound,
        Conflict,
        Refused,
        Denied,
        TooLarge,
        Unavailable,
        DeadlineExceeded,
        Canceled,
        Tampered,
        PenstockError,
    )
}


def error_of(
    kind: Kind, message: str, *, where: str | None = None, remedy: str | None = None
) -> PenstockError:
    """The error of a kind, as after a journey through gRPC or from a child process."""
    return _CLASSES[kind](message, where=where, remedy=remedy)
