"""`python -m penstock.runtime.ray_identity TOKEN FOLDER`: certificate, key and authority by which this
machine is a member of a Ray cluster, as Ray's settings `RAY_TLS_…` name them.

Ray's nodes call one another by addresses, and each must be in the certificate of who is called:
every machine makes its own when it starts. The authority's key follows from the cluster's token, so
that a member needs that one file, and whoever has it is a member. It signs nothing else.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-5)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Penstock Ray cluster")])
BACKDATED = timedelta(days=1)  # another machine's clock may be behind
LASTS = timedelta(days=3650)
ELSEWHERE = ("192.0.2.1", 9)  # an address that nobody has (RFC 5737)
LOOPBACK = ("localhost", "127.0.0.1")

Key = ec.EllipticCurvePrivateKey


def authority_key(token: bytes) -> Key:
    """The key that every holder of the token has (HKDF, RFC 5869)."""
    derived = HKDF(hashes.SHA256(), length=48, salt=None, info=b"penstock ray authority").derive(token)
    return ec.derive_private_key(int.from_bytes(derived) % (ORDER - 1) + 1, ec.SECP256R1())


def write_identity(token: bytes, names: Iterable[str], folder: Path) -> None:
    """Writes `authority.pem`, `node.pem` and `node.key`. `names`: those and the addresses by which others
    call this machine.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, key = authority_key(token), ec.generate_private_key(ec.SECP256R1())
    written = {
        "authority.pem": certificate(authority, authority).public_bytes(Encoding.PEM),
        "node.pem": certificate(authority, key, names).public_bytes(Encoding.PEM),
        "node.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }
    for name, content in written.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def certificate(authority: Key, key: Key, names: Iterable[str] = ()) -> x509.Certificate:
    """Certificate of a machine of these names; of the authority itself where both keys are its own."""
    now, itself = datetime.now(UTC), key is authority
    subject = NAME if itself else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LASTS)
        .add_extension(x509.BasicConstraints(ca=itself, path_length=0 if itself else None), critical=True)
    )
    if not itself:
        built = built.add_extension(x509.SubjectAlternativeName([_called(one) for one in names]), False)
    return built.sign(authority, hashes.SHA256())


def _called(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def own_names() -> list[str]:
    """Names and addresses of this machine on its networks."""
    host = socket.gethostname()
    found = {str(address[4][0]) for address in socket.getaddrinfo(host, None)}
    with socket.socket(type=socket.SOCK_DGRAM) as outwards, suppress(OSError):  # no way out
        outwards.connect(ELSEWHERE)  # which sends nothing
        found.add(str(outwards.getsockname()[0]))
    return [*LOOPBACK, host, *sorted(found - {*LOOPBACK})]


if __name__ == "__main__":
    write_identity(Path(sys.argv[1]).read_bytes().strip(), own_names(), Path(sys.argv[2]))
