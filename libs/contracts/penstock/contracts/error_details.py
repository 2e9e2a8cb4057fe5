"""Errors as gRPC's error details: a `google.rpc.Status` with an `ErrorInfo` of this platform."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.rpc import code_pb2, error_details_pb2, status_pb2

from penstock.contracts.errors import TREATMENTS, Kind, PenstockError, error_of

DOMAIN: Final = "penstock.io"
KEY: Final = "grpc-status-details-bin"  # of the trailing metadata that carries the status

_KINDS: Final = frozenset(kind.value for kind in Kind)

Metadata = Iterable[tuple[str, str | bytes]]


def metadata_of(error: PenstockError) -> tuple[tuple[str, bytes]]:
    """Trailing metadata of a call that ends with this error."""
    told = {"message": error.message, "where": error.where or "", "remedy": error.remedy or ""}
    info = error_details_pb2.ErrorInfo(reason=error.kind.value, domain=DOMAIN, metadata=told)
    code = code_pb2.Code.Value(TREATMENTS[error.kind].grpc_status)
    status = status_pb2.Status(code=code, message=str(error))
    status.details.add().Pack(info)
    return ((KEY, status.SerializeToString()),)


def error_in(metadata: Metadata | None) -> PenstockError | None:
    """Error that trailing metadata carries; None where the peer is no service of this platform, or has a
    kind that a later release brought.
    """
    for key, value in metadata or ():
        info = error_details_pb2.ErrorInfo()
        carries = key == KEY and isinstance(value, bytes)
        for detail in status_pb2.Status.FromString(value).details if carries else ():
            if detail.Unpack(info) and info.domain == DOMAIN and info.reason in _KINDS:
                told = info.metadata
                return error_of(
                    Kind(info.reason),
                    told["message"],
                    where=told["where"] or None,
                    remedy=told["remedy"] or None,
                )
    return None


def error_of_call(call: Any) -> PenstockError:
    """Error of a failed call, a `grpc.RpcError`: the one that its metadata carries, else one of its
    status's kind.
    """
    ask = getattr(call, "trailing_metadata", None)  # which only a call that was answered has
    if told := error_in(ask() if ask else None):
        return told
    status = call.code().name
    # Of two kinds that share a status, the first: the peer is no service of this platform.
    kinds = (kind for kind, treatment in TREATMENTS.items() if treatment.grpc_status == status)
    return error_of(next(kinds, Kind.INTERNAL), call.details() or status)
