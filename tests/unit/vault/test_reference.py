import pytest

from tensorguard.vault.errors import BadReference
from tensorguard.vault.reference import KekReference

GOOD = [
    "local",
    "local:local-0011223344556677",
    "aws:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "aws:arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd",
    "azure:https://acme.vault.azure.net/keys/tensorguard",
    "gcp:projects/acme/locations/europe-west3/keyRings/edge/cryptoKeys/kek",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_names_a_key_is_read_and_written_back(text: str) -> None:
    assert str(KekReference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vault:x",
        "aws",
        "aws:alias/kek",
        "aws:arn:aws:kms:eu-central-1:111122223333:alias/kek",
        "aws:arn:aws:s3:eu-central-1:111122223333:key/x",
        "azure:http://acme.vault.azure.net/keys/k",
        "azure:https://acme.vault.azure.net/keys/k/0123456789abcdef",
        "azure:https://user@acme.vault.azure.net/keys/k",
        "gcp:projects/a/locations/b/keyRings/c/cryptoKeys/d/cryptoKeyVersions/1",
        "local:../../etc",
        "local:A B",
    ],
)
def test_what_names_no_key_is_refused_with_the_form_that_would(text: str) -> None:
    with pytest.raises(BadReference):
        KekReference.parse(text)
