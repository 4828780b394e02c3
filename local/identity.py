"""The signature that proves an instance's identity document."""

from __future__ import annotations

import base64
import textwrap
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID


class IdentitySigner:
    """Signs as AWS signs in one region: base64 of RSA PKCS#1 v1.5 over the SHA-256 of the document's bytes.

    Attributes:
        certificate: The PEM certificate that verifies the signatures; made anew for every local AWS.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Local AWS, not Amazon")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )

    def sign(self, document: bytes) -> str:
        """Sign the document; the base64 is broken into lines, as AWS serves it."""
        signature = self._key.sign(document, padding.PKCS1v15(), hashes.SHA256())
        return "\n".join(textwrap.wrap(base64.b64encode(signature).decode(), 76))
