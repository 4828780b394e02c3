"""Signatures of instance identity documents, verified against the certificates that the deployment trusts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from spot_optimizer.adapters.parameters import Parameters
from spot_optimizer.errors import InstanceUnproven

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


class SignedDocuments:
    """Implements `Proofs`: RSA PKCS#1 v1.5 over SHA-256, which is how EC2 signs what it serves as `signature`.

    Args:
        parameters: Reads the certificates.
        parameter_name: Tells the parameter that holds one or more PEM certificates; asked at the first verification.
    """

    def __init__(self, parameters: Parameters, *, parameter_name: Callable[[], str]) -> None:
        self._parameters = parameters
        self._parameter_name = parameter_name

    @cached_property
    def _keys(self) -> Sequence[RSAPublicKey]:
        # Registrations are rare; no other call should pay for this import.
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        certificates = x509.load_pem_x509_certificates(self._parameters.read(self._parameter_name()).encode())
        return [key for certificate in certificates if isinstance(key := certificate.public_key(), RSAPublicKey)]

    def verify(self, document: str, signature: str) -> None:
        """Let only a document pass that one of the trusted certificates signed.

        Args:
            document: The bytes as the instance metadata served them, as text.
            signature: Base64, with or without line breaks.

        Raises:
            InstanceUnproven: The signature is malformed, or of another document or signer.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            signed = base64.b64decode("".join(signature.split()), validate=True)
        except (binascii.Error, ValueError):
            raise InstanceUnproven(
                "identity_signature is not base64; expected what the instance metadata serves as `signature`"
            ) from None
        for key in self._keys:
            try:
                key.verify(signed, document.encode(), PKCS1v15(), SHA256())
            except InvalidSignature:
                continue
            return
        raise InstanceUnproven(
            "identity_signature does not belong to identity_document; expected both as the instance metadata of this "
            "region serves them"
        )
