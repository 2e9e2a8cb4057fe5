"""Signed statements as DSSE v1 envelopes (https://github.com/secure-systems-lab/dsse, protocol.md).

The signature covers the payload type and the payload's very bytes (PAE), so a verdict cannot be
passed off as a waiver, and nothing is parsed before it is verified.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import ClassVar, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Tampered
from penstock.contracts.events import Envelope, EnvelopeSignature
from penstock.packages.keys import Role, Signer, Trust
from penstock.packages.manifest import canonical


class Statement(BaseModel):
    """Base of what is signed. Each names pipeline and digest, so none can be used for another
    model. What has a new meaning is a new payload type, so an unknown field changes nothing.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    payload_type: ClassVar[str]
    role: ClassVar[Role]  # Role whose key must have signed it

    pipeline: str
    digest: str  # Digest of what it is about: the model package, unless the kind says otherwise.
    at: AwareDatetime


StatementT = TypeVar("StatementT", bound=Statement)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Bytes that are signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: Statement, signer: Signer) -> Envelope:
    """Signs a statement. Raises ValueError when the signer's role is not the statement's: no
    verifier would accept it.
    """
    if signer.role != statement.role:
        raise ValueError(f"a {type(statement).__name__} is signed by {statement.role}, not by {signer.role}")
    payload = canonical(statement.model_dump(mode="json"))
    signature = signer.sign(pae(statement.payload_type, payload))
    return Envelope(
        payload_type=statement.payload_type,
        payload=b64encode(payload).decode(),
        signatures=(EnvelopeSignature(keyid=signer.keyid, sig=b64encode(signature).decode()),),
    )


def verify(envelope: Envelope, trust: Trust, kind: type[StatementT]) -> StatementT:
    """Verifies that the envelope holds a statement of this kind, and that one of its signatures is
    of a trusted key of the kind's role. Returns the statement.

    Raises Tampered that says which of these does not hold.
    """
    name = kind.__name__.lower()
    if envelope.payload_type != kind.payload_type:
        raise Tampered(f"{envelope.payload_type} is no {name}")
    payload = _decode(envelope.payload, name)
    signer = _signed_by(envelope, pae(envelope.payload_type, payload), trust, kind.role, name)
    try:
        statement = kind.model_validate_json(payload)
    except ValidationError as error:
        raise Tampered(f"the {name} cannot be read: {error.errors()[0]['msg']}") from error
    trust.key(signer, kind.role, statement.at)
    return statement


def envelope_digest(envelope: Envelope) -> str:
    """Digest of what the envelope states (its PAE), not of the signature: ECDSA signatures can be
    rewritten, statements cannot.
    """
    return digest_of(pae(envelope.payload_type, _decode(envelope.payload, "payload")))


def _signed_by(envelope: Envelope, message: bytes, trust: Trust, role: Role, name: str) -> str:
    """Finds the key id of a signature that holds. Raises Tampered with why each does not."""
    reasons = []
    for signature in envelope.signatures:
        try:
            if trust.key(signature.keyid, role).verifies(message, _decode(signature.sig, "signature")):
                return signature.keyid
            reasons.append(f"the signature of key {signature.keyid} does not hold")
        except Tampered as error:
            reasons.append(error.message)
    raise Tampered(f"the {name} is not validly signed: {'; '.join(reasons) or 'there is no signature'}")


def _decode(text: str, what: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise Tampered(f"the {what} is not base64") from error
