"""The certificate by which an instance is known to its peer.

Every instance makes its own key pair; nothing is signed by anybody else. The control plane hands each side the whole
certificate of the other, and that certificate is the only one accepted: chain, dates and names play no part in trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A private key and the self-signed certificate that goes with it.

    Attributes:
        certificate: PEM text, to be handed to the control plane at registration.
        fingerprint: SHA-256 of the certificate's DER form, lower-case hex.
        certificate_file: Where the PEM lies.
        key_file: Where the key lies, readable by the owner only.
    """

    certificate: str
    fingerprint: str
    certificate_file: Path
    key_file: Path

    @staticmethod
    def load_or_create(state_dir: Path, *, name: str) -> Identity:
        """Read the identity in `state_dir`, or make one there.

        Args:
            state_dir: The agent's private folder; made if missing.
            name: Shown in the certificate to people who look at it; nothing depends on it.
        """
        raise NotImplementedError


def fingerprint(certificate: str) -> str:
    """SHA-256 of the DER form of a PEM certificate, lower-case hex.

    Raises:
        PeerNotTrusted: The text is not one PEM certificate.
    """
    raise NotImplementedError
