"""One key at each provider's far end, and what can happen to it: what the conformance suite drives.

With TG_TEST_AWS_KMS_KEY (an ARN), TG_TEST_AZURE_KEY (a URL) or TG_TEST_GCP_KEY (a resource name) in
the environment, and credentials as their SDKs find them, the suite also runs against that key. It
must be enabled and for tests alone: a version is added to it.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tensorguard.vault.aws import AwsKeyProvider, new_session
from tensorguard.vault.azure import AzureKeyProvider
from tensorguard.vault.gcp import GcpKeyProvider
from tensorguard.vault.local import LocalKeyProvider
from tensorguard.vault.provider import ManagedProvider
from tensorguard.vault.remote import Limits
from tests.integration.vault import fake_aws, fake_azure, fake_gcp
from tests.integration.vault.far_end import Faults, wrapping_key

QUICK = Limits(
    connect_s=0.5, call_s=0.5, attempts=3, back_off_s=0.01, most_back_off_s=0.02, breaks_after=50
)
REAL = {
    "real-aws": "TG_TEST_AWS_KMS_KEY",
    "real-azure": "TG_TEST_AZURE_KEY",
    "real-gcp": "TG_TEST_GCP_KEY",
}


def _nothing(*arguments: Any) -> None:
    raise NotImplementedError


@dataclass
class End:
    """A provider over one key, one over another key, and the levers at the far end."""

    provider: ManagedProvider
    other: ManagedProvider
    elsewhere: Callable[[], ManagedProvider] = _nothing  # type: ignore[assignment]  # unused there
    faults: Faults | None = None
    disable: Callable[[], None] = _nothing
    enable: Callable[[], None] = _nothing
    delete: Callable[[], None] = _nothing
    importing: Callable[[], ManagedProvider] = _nothing  # type: ignore[assignment]  # as above
    material: Callable[[], bytes] = lambda: os.urandom(32)
    deny: Callable[[], None] = _nothing
    keeps_expiry: bool = True


@contextmanager
def local_end(folder: Path) -> Iterator[End]:
    path = folder / "kek.json"
    provider = LocalKeyProvider.open_or_create(path)

    def change(**values: Any) -> None:
        content = msgspec.json.decode(path.read_bytes())
        for version in content["versions"]:
            version |= values
        path.write_bytes(msgspec.json.encode(content))
        provider._content = LocalKeyProvider.open(path)._content  # what a restart reads

    def deny() -> None:
        path.chmod(0o644)

    yield End(
        provider,
        LocalKeyProvider.open_or_create(folder / "other.json"),
        elsewhere=lambda: LocalKeyProvider.open(folder / "elsewhere" / "kek.json"),
        disable=lambda: change(state="disabled"),
        enable=lambda: change(state="enabled"),
        importing=lambda: provider,
        deny=deny,
    )


@contextmanager
def aws_end(folder: Path) -> Iterator[End]:
    with fake_aws.running_kms() as kms:

        def make(key_id: str, limits: Limits) -> Any:
            from botocore.config import Config

            return new_session().create_client(
                "kms",
                aws_access_key_id=fake_aws.ACCESS_KEY,
                aws_secret_access_key="secret",
                endpoint_url=kms.url,
                config=Config(
                    region_name=key_id.split(":")[3],
                    connect_timeout=limits.connect_s,
                    read_timeout=limits.call_s,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                ),
            )

        def open_key(key: fake_aws.Key) -> AwsKeyProvider:
            return AwsKeyProvider(key.arn, limits=QUICK, make=make, rotation_wait_s=1)

        def deny() -> None:
            kms.faults.denied = True

        key = kms.create()
        yield End(
            open_key(key),
            open_key(kms.create()),
            elsewhere=lambda: AwsKeyProvider(
                key.arn.replace("eu-central-1", "us-east-1"),
                limits=QUICK,
                make=lambda _, limits: make(key.arn, limits),
            ),
            faults=kms.faults,
            disable=lambda: setattr(key, "state", "Disabled"),
            enable=lambda: setattr(key, "state", "Enabled"),
            delete=lambda: setattr(key, "state", "PendingDeletion"),
            importing=lambda: open_key(kms.create(external=True)),
            deny=deny,
        )


@contextmanager
def azure_end(folder: Path) -> Iterator[End]:
    certificate, private = fake_azure.write_certificate(folder)
    wrapping_key()  # made before anything has to be answered in time
    with fake_azure.running_vault(certificate, private) as vault, _names():

        def options(limits: Limits) -> dict[str, Any]:
            from azure.identity import ClientSecretCredential

            times = {
                "retry_total": 0,
                "connection_timeout": limits.connect_s,
                "read_timeout": limits.call_s,
                "connection_verify": str(certificate),
            }
            credential = ClientSecretCredential(
                fake_azure.TENANT,
                fake_azure.CLIENT,
                fake_azure.CLIENT_SECRET,
                authority=f"https://{fake_azure.LOGIN}:{vault.port}",
                disable_instance_discovery=True,
                **times,
            )
            return {"credential": credential, **times}

        def open_key(key_id: str) -> AzureKeyProvider:
            return AzureKeyProvider(key_id, limits=QUICK, options=options)

        def set_enabled(enabled: bool) -> None:
            for version in vault.keys[name]:
                version.enabled = enabled

        def deny() -> None:
            vault.faults.denied = True

        key_id = vault.create()
        name = key_id.rpartition("/")[2]
        yield End(
            open_key(key_id),
            open_key(vault.create()),
            elsewhere=lambda: open_key(f"{vault.url}/keys/in-another-vault"),
            faults=vault.faults,
            disable=lambda: set_enabled(False),
            enable=lambda: set_enabled(True),
            delete=lambda: vault.delete(name),
            importing=lambda: open_key(vault.create()),
            material=rsa_pem,
            deny=deny,
        )


@contextmanager
def gcp_end(folder: Path) -> Iterator[End]:
    from google.cloud import kms_v1
    from google.cloud.kms_v1.services.key_management_service.transports import (
        KeyManagementServiceGrpcTransport as Transport,
    )

    with fake_gcp.running_cloud_kms() as kms:

        def make(limits: Limits) -> Any:
            channel = grpc.insecure_channel(kms.address, options=[("grpc.enable_http_proxy", 0)])
            return kms_v1.KeyManagementServiceClient(transport=Transport(channel=channel))

        def open_key(name: str) -> GcpKeyProvider:
            return GcpKeyProvider(name, limits=QUICK, make=make)

        def set_state(state: Any) -> None:
            for version in key.versions.values():
                version.state = state

        def deny() -> None:
            kms.faults.denied = True

        key = kms.create()
        yield End(
            open_key(key.name),
            open_key(kms.create().name),
            elsewhere=lambda: open_key(key.name.replace(fake_gcp.LOCATION, "us-east1")),
            faults=kms.faults,
            disable=lambda: set_state(fake_gcp.STATES.DISABLED),
            enable=lambda: set_state(fake_gcp.STATES.ENABLED),
            delete=lambda: set_state(fake_gcp.STATES.DESTROY_SCHEDULED),
            importing=lambda: open_key(kms.create(empty=True).name),
            deny=deny,
            keeps_expiry=False,
        )


@contextmanager
def real_end(name: str, folder: Path) -> Iterator[End]:
    key_id = os.environ[REAL[name]]
    kinds: dict[str, Callable[[str], ManagedProvider]] = {
        "real-aws": AwsKeyProvider,
        "real-azure": AzureKeyProvider,
        "real-gcp": GcpKeyProvider,
    }
    yield End(kinds[name](key_id), LocalKeyProvider.open_or_create(folder / "other.json"))


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


FAKES: dict[str, Callable[[Path], Any]] = {
    "local": local_end,
    "aws": aws_end,
    "azure": azure_end,
    "gcp": gcp_end,
}
CLOUDS = ["aws", "azure", "gcp"]
WITH_REAL = [*FAKES, *(name for name, variable in REAL.items() if os.environ.get(variable))]


@contextmanager
def open_end(name: str, folder: Path) -> Iterator[End]:
    with FAKES[name](folder) if name in FAKES else real_end(name, folder) as end:
        yield end


@contextmanager
def _names() -> Iterator[None]:
    """Resolve the fakes' names to this machine, so that the SDK's checks of names stay on."""
    resolve = socket.getaddrinfo

    def resolve_ours(host: Any, *arguments: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if host in _OURS else host, *arguments, **more)

    socket.getaddrinfo = resolve_ours  # type: ignore[assignment]  # for this test only
    try:
        yield
    finally:
        socket.getaddrinfo = resolve


_OURS = (fake_azure.HOST, fake_azure.LOGIN)
