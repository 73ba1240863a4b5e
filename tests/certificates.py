"""A throwaway certificate authority, for what is tested over TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TOKEN = "t0ken-of-the-tests-0123456789"
DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    """Paths of PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs what it is asked to, into files of a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"authority {name}")
        now = datetime.datetime.now(datetime.UTC)
        builder = _builder(self._name, self._name, self._key, now - 100 * DAY, now + 100 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        )

    def issue(
        self,
        name: str,
        *,
        names: tuple[str, ...] = (),
        addresses: tuple[str, ...] = ("127.0.0.1",),
        days: tuple[float, float] = (-1, 30),
        file: str = "",
    ) -> Pair:
        """names, addresses: alternative names, in the order of DNS and IP. days: from and until, from now. file: what
        its files are called, if not as the name is."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = _builder(_named(name), self._name, key, now + days[0] * DAY, now + days[1] * DAY)
        general: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
        general += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        if general:
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{file or name}.crt", self._folder / f"{file or name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        write_secret(
            pair.key,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return pair


def write_secret(path: Path, content: str | bytes) -> Path:
    """A file that not everybody can read."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    since: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )
