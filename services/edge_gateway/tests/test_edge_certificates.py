"""A site's certificate proves its name to who trusts the hub's authority, and is good for nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from penstock.contracts.errors import Invalid
from penstock.contracts.site_door import JOIN_NAME, SITES_NAME
from penstock_edge_gateway import certificates
from penstock_edge_gateway.certificates import Identity
from penstock_edge_gateway.token import Token, secret_digest

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Identity:
    return certificates.new_authority(NOW)


def policy(authority: Identity, at: datetime = NOW) -> PolicyBuilder:
    return PolicyBuilder().store(Store([authority.certificate])).time(at.replace(tzinfo=None))


def site(authority: Identity, name: str = "branch-1") -> Identity:
    key = certificates.new_key()
    asked = certificates.requested_key(certificates.request_of(key))
    return Identity(certificates.site_certificate(authority, name, asked, NOW), key)


def test_a_sites_certificate_names_it_and_is_no_door(authority: Identity) -> None:
    mine = site(authority).certificate
    proven = policy(authority).build_client_verifier().verify(mine, [])
    assert [name.value for name in proven.subjects or []] == ["penstock://site/branch-1"]
    with pytest.raises(VerificationError):
        policy(authority).build_server_verifier(x509.DNSName(SITES_NAME)).verify(mine, [])
    with pytest.raises(VerificationError):
        policy(certificates.new_authority(NOW)).build_client_verifier().verify(mine, [])


def test_the_doors_certificate_has_both_of_its_names_and_is_no_site(authority: Identity) -> None:
    door = certificates.door_identity(authority, NOW).certificate
    for name in (SITES_NAME, JOIN_NAME):
        policy(authority).build_server_verifier(x509.DNSName(name)).verify(door, [])
    with pytest.raises(VerificationError):
        policy(authority).build_client_verifier().verify(door, [])


@pytest.mark.parametrize(("away", "verifies"), [(-23, True), (-25, False), (24 * 89, True), (24 * 91, False)])
def test_a_clock_may_be_a_day_behind(authority: Identity, away: int, verifies: bool) -> None:
    door = certificates.door_identity(authority, NOW).certificate
    there = policy(authority, NOW + timedelta(hours=away))
    verifier = there.build_server_verifier(x509.DNSName(SITES_NAME))
    if verifies:
        verifier.verify(door, [])
    else:
        with pytest.raises(VerificationError):
            verifier.verify(door, [])


def test_the_door_takes_another_certificate_in_time(authority: Identity) -> None:
    door = certificates.door_identity(authority, NOW).certificate
    assert not certificates.is_due(door, NOW + timedelta(days=59))
    assert certificates.is_due(door, NOW + timedelta(days=61))


def test_an_identity_reads_what_it_wrote(authority: Identity) -> None:
    mine = site(authority)
    again = Identity.load(mine.certificate_pem, mine.key_pem)
    assert again.certificate == mine.certificate
    assert again.key.private_numbers() == mine.key.private_numbers()
    assert certificates.digest(again.certificate) == mine.certificate.fingerprint(hashes.SHA256()).hex()


def test_only_a_request_signed_by_its_own_key_is_taken() -> None:
    def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    forged = bytearray(request(certificates.new_key()))
    forged[-1] ^= 1
    other = rsa.generate_private_key(65537, 2048)
    for wrong in (
        bytes(forged),
        request(other),
        request(ec.generate_private_key(ec.SECP384R1())),
        b"rubbish",
    ):
        with pytest.raises(Invalid, match="certificate_request"):
            certificates.requested_key(wrong)


@pytest.mark.parametrize("name", ["", "Branch", "1st", "a" * 64, "a.b", "a/b", "branch 1"])
def test_a_site_has_a_plain_name(name: str) -> None:
    with pytest.raises(Invalid, match="cannot be a site's name"):
        certificates.checked_site(name)


def test_a_token_is_read_again_and_rubbish_is_not() -> None:
    token = Token.new(hub="hub.example:9443", site="branch-1", authority="a" * 64, expires_at=NOW)
    text = str(token)
    assert Token.read(f" {text}\n") == token
    assert token.expires == NOW
    assert secret_digest(token.secret) != secret_digest(
        Token.new(hub="hub.example:9443", site="branch-1", authority="a" * 64, expires_at=NOW).secret
    )
    for wrong in ("", "penstock-site-", text[:-4], text + "!", "penstock-site-e30", "penstock-site-bnVsbA"):
        with pytest.raises(Invalid, match="no token"):
            Token.read(wrong)
