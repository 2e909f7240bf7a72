"""The AWS provider against moto's server: another far end, that somebody else has written.

Moto decrypts with disabled keys and imports nothing, so the strict fake is what the conformance
suite uses; moto shows that the requests are those that others understand.
"""

from collections.abc import Iterator

import boto3
import pytest

from tensorguard.vault.aws import AwsKeyProvider
from tensorguard.vault.errors import KeyMissing, WrongContext
from tests.integration.moto import running_moto

CONTEXT = {"purpose": "dek", "owner": "a" * 64}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture
def provider(moto: str, monkeypatch: pytest.MonkeyPatch) -> AwsKeyProvider:
    """The provider as a process has it: boto3 finds everything in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("kms", region_name="eu-central-1")
    return AwsKeyProvider(client.create_key()["KeyMetadata"]["Arn"], rotation_wait_s=0.1)


async def test_it_wraps_and_unwraps_and_binds_the_context(provider: AwsKeyProvider) -> None:
    wrapped = await provider.wrap(bytes(32), CONTEXT)
    assert await provider.unwrap(wrapped, CONTEXT) == bytes(32)
    with pytest.raises(WrongContext):
        await provider.unwrap(wrapped, {**CONTEXT, "owner": "b"})
    assert (await provider.describe()).state == "enabled"


async def test_the_region_is_that_of_the_key(provider: AwsKeyProvider) -> None:
    described = await provider.describe()
    elsewhere = AwsKeyProvider(described.key_id.replace("eu-central-1", "us-east-1"))
    with pytest.raises(KeyMissing):
        await elsewhere.wrap(bytes(32), CONTEXT)
