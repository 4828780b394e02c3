"""Identity documents: only what a trusted certificate signed is believed."""

from __future__ import annotations

import boto3
import pytest

from local.identity import IdentitySigner
from spot_optimizer.adapters.identity import SignedDocuments
from spot_optimizer.adapters.parameters import Parameters
from spot_optimizer.adapters.sessions import Clients
from spot_optimizer.errors import InstanceUnproven

DOCUMENT = '{\n  "instanceId" : "i-0123456789abcdef0"\n}'


@pytest.fixture(scope="module")
def signers() -> tuple[IdentitySigner, IdentitySigner, IdentitySigner]:
    return IdentitySigner(), IdentitySigner(), IdentitySigner()


@pytest.fixture
def documents(clients: Clients, signers: tuple[IdentitySigner, ...]) -> SignedDocuments:
    """Trusts the first two signers."""
    trusted = signers[0].certificate + signers[1].certificate
    boto3.client("ssm").put_parameter(Name="/test/certificates", Value=trusted, Type="String")
    return SignedDocuments(Parameters(clients), parameter_name=lambda: "/test/certificates")


def test_each_trusted_certificate_may_have_signed(
    documents: SignedDocuments, signers: tuple[IdentitySigner, ...]
) -> None:
    for signer in signers[:2]:
        documents.verify(DOCUMENT, signer.sign(DOCUMENT.encode()))


def test_a_signature_with_or_without_line_breaks_is_the_same(
    documents: SignedDocuments, signers: tuple[IdentitySigner, ...]
) -> None:
    signature = signers[0].sign(DOCUMENT.encode())
    assert "\n" in signature
    documents.verify(DOCUMENT, signature.replace("\n", ""))


def test_another_signer_is_not_believed(documents: SignedDocuments, signers: tuple[IdentitySigner, ...]) -> None:
    with pytest.raises(InstanceUnproven):
        documents.verify(DOCUMENT, signers[2].sign(DOCUMENT.encode()))


def test_another_document_is_not_believed(documents: SignedDocuments, signers: tuple[IdentitySigner, ...]) -> None:
    with pytest.raises(InstanceUnproven):
        documents.verify(DOCUMENT + " ", signers[0].sign(DOCUMENT.encode()))


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64 at all!"])
def test_what_is_no_signature_is_not_believed(documents: SignedDocuments, signature: str) -> None:
    with pytest.raises(InstanceUnproven):
        documents.verify(DOCUMENT, signature)
