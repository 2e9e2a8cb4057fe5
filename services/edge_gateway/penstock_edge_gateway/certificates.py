"""Certificates of sites, and of the door that lets them in (X.509, EC P-256).

The hub has an authority of its own, which signs nothing else. Whoever holds a certificate of it is
known at the door; whether that one may still come is the hub's table's to say, which is why there
are no lists of revoked certificates. All of them begin a day before they are made: the clock of
another machine may be behind.

Pure: no I/O, the time comes in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penstock.contracts.errors import Invalid
from penstock.contracts.site_door import JOIN_NAME, SITES_NAME

BACKDATED: Final = timedelta(days=1)
AUTHORITY_FOR: Final = timedelta(days=3650)
DOOR_FOR: Final = timedelta(days=90)
RENEWED_BEFORE: Final = timedelta(days=30)  # the end of the door's certificate

_SITE: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Identity:
    """Certificate with its private key."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def load(cls, certificate: str, key: str) -> Self:
        """Reads both from PEM. Raises ValueError."""
        private = load_pem_private_key(key.encode(), password=None)
        if not isinstance(private, Key):
            raise ValueError("the key is not on an elliptic curve")
        return cls(x509.load_pem_x509_certificate(certificate.encode()), private)

    @property
    def certificate_pem(self) -> str:
        return pem(self.certificate)

    @property
    def key_pem(self) -> str:
        return key_pem(self.key)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def digest(certificate: x509.Certificate) -> str:
    """The sha256 of the certificate (DER), in hexadecimal digits: what Envoy tells the hub."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def checked_site(name: str) -> str:
    """The name, where it may be a site's. Raises Invalid."""
    if not _SITE.fullmatch(name):
        raise Invalid(
            f"{name!r} cannot be a site's name",
            where="site",
            remedy="Take a lower-case letter, then up to 62 letters, digits or hyphens: branch-1",
        )
    return name


# -- requests --------------------------------------------------------------------------------------


def request_of(key: Key) -> bytes:
    """Request (PKCS#10, DER) for a certificate for `key`, which proves that its maker has the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """Public key that a request is for. Its other wishes are not granted. Raises Invalid."""
    try:
        asked = x509.load_der_x509_csr(request)
        key, holds = asked.public_key(), asked.is_signature_valid
    except ValueError as error:
        raise Invalid(f"no certificate request: {error}", where="certificate_request") from error
    if not holds:
        raise Invalid("its own key did not sign the request", where="certificate_request")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("the key is not EC P-256", where="certificate_request")
    return key


# -- what the authority signs ----------------------------------------------------------------------


def new_authority(now: datetime) -> Identity:
    """A new authority, which signs its own certificate."""
    key = new_key()
    name = _common_name("Penstock sites")
    may = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    built = (
        _begun(name, name, key.public_key(), now, now + AUTHORITY_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(may, critical=True)
    )
    return Identity(built.sign(key, hashes.SHA256()), key)


def door_identity(authority: Identity, now: datetime) -> Identity:
    """A new key of the door with its certificate, for both of its names."""
    key = new_key()
    names = [x509.DNSName(SITES_NAME), x509.DNSName(JOIN_NAME)]
    until = min(now + DOOR_FOR, authority.certificate.not_valid_after_utc)
    signed = _issued(
        authority, SITES_NAME, key.public_key(), now, until, names, ExtendedKeyUsageOID.SERVER_AUTH
    )
    return Identity(signed, key)


def is_due(door: x509.Certificate, now: datetime) -> bool:
    """Tells whether it is time for another certificate of the door."""
    return now > door.not_valid_after_utc - RENEWED_BEFORE


def site_certificate(
    authority: Identity, site: str, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.Certificate:
    """Certificate of a site: good as a client and for nothing else, as long as the authority is. A
    site that was away for a year still comes in, if the hub's table says so.
    """
    name = x509.UniformResourceIdentifier(f"penstock://site/{site}")
    until = authority.certificate.not_valid_after_utc
    return _issued(authority, site, key, now, until, [name], ExtendedKeyUsageOID.CLIENT_AUTH)


def _issued(
    authority: Identity,
    subject: str,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
) -> x509.Certificate:
    own = authority.key.public_key()
    built = (
        _begun(_common_name(subject), authority.certificate.subject, key, now, until)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return built.sign(authority.key, hashes.SHA256())


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
