"""The certificate by which an instance is known to its peer.

Every instance makes its own key pair; nothing is signed by anybody else. The control plane hands each side the whole
certificate of the other, and that certificate is the only one accepted: chains, dates and names play no part in trust.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from spot_agent.sync.durable import sync_folder
from spot_agent.sync.errors import PeerNotTrusted

# OpenSSL looks at the dates even of a pinned certificate. Clocks of fresh instances may be off, and an instance does
# not outlive its certificate, so the dates are made to never matter.
_VALID_FROM: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_VALID_UNTIL: Final = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Identity:
    """A private key and the self-signed certificate that goes with it.

    Attributes:
        certificate: PEM text, to be handed to the control plane at registration.
        fingerprint: SHA-256 of the certificate's DER form, lower-case hex.
        identity_file: Key and certificate in one PEM file, readable by the owner only.
    """

    certificate: str
    fingerprint: str
    identity_file: Path

    @staticmethod
    def load_or_create(state_dir: Path, *, name: str) -> Identity:
        """Read the identity in `state_dir`, or make one there.

        Args:
            state_dir: The agent's private folder; made if missing.
            name: Shown in the certificate to people who look at it; nothing depends on it.
        """
        file = state_dir / "identity.pem"
        if not file.exists():
            state_dir.mkdir(parents=True, exist_ok=True)
            _write_private(file, _new_key_and_certificate(name))
        certificate = _certificate_in(file.read_text("ascii"))
        return Identity(certificate=certificate, fingerprint=fingerprint(certificate), identity_file=file)


def fingerprint(certificate: str) -> str:
    """SHA-256 of the DER form of a PEM certificate, lower-case hex.

    Raises:
        PeerNotTrusted: The text is not one PEM certificate.
    """
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.strip() + "\n")).hexdigest()
    except (ValueError, TypeError) as unreadable:
        raise PeerNotTrusted("expected exactly one PEM certificate of the peer, as it registered it") from unreadable


def _new_key_and_certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "spot-agent")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def _certificate_in(pem: str) -> str:
    return pem[pem.index("-----BEGIN CERTIFICATE-----") :]


def _write_private(file: Path, content: bytes) -> None:
    # Key and certificate become visible together or not at all: a crash in between must not leave half an identity.
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    sync_folder(file.parent)  # the control plane is told of it, and then it must not be another one
