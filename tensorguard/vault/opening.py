"""Opens the provider of a KEK by its name, wherever the key is."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tensorguard.vault.errors import BadReference, KeyMissing
from tensorguard.vault.local import KEK_FILE, Clock, LocalKeyProvider, utc_now
from tensorguard.vault.provider import ManagedProvider
from tensorguard.vault.reference import KekReference, ProviderName
from tensorguard.vault.remote import Limits

FLEET_KEKS_FOLDER: Final = "keks"  # in the data directory
# https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates
AZURE_DOMAINS: Final = (
    "vault.azure.net",
    "vault.azure.cn",
    "vault.usgovcloudapi.net",
    "managedhsm.azure.net",
    "managedhsm.azure.cn",
    "managedhsm.usgovcloudapi.net",
)

MakeProvider = Callable[[str], ManagedProvider]


class Opener:
    """Where KEKs are found from this machine.

    A vault of Azure is called only under a domain of `azure_domains`: whoever may name a KEK must
    not send this process to a host of their choice.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        passphrase: bytes | None = None,
        clock: Clock = utc_now,
        limits: Limits | None = None,
        azure_domains: Sequence[str] = AZURE_DOMAINS,
        instead: Mapping[ProviderName, MakeProvider] | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._passphrase = passphrase
        self._clock = clock
        self._limits = limits
        self._azure_domains = azure_domains
        self._instead = instead or {}

    def open(self, reference: KekReference) -> ManagedProvider:
        """The provider of an existing KEK; a cloud is not called yet. Raises: VaultError."""
        name, key_id = reference.provider, reference.key_id
        if name in self._instead:
            return self._instead[name](key_id)
        if name == "local":
            return self._open_local(key_id)
        # Here, because each needs an SDK that only its users install.
        if name == "aws":
            from tensorguard.vault.aws import AwsKeyProvider

            return AwsKeyProvider(key_id, limits=self._limits)
        if name == "azure":
            from tensorguard.vault.azure import AzureKeyProvider

            host = urlsplit(key_id).hostname or ""
            if not host.endswith(tuple(f".{domain}" for domain in self._azure_domains)):
                raise BadReference(
                    f"{host} is no vault of Azure",
                    hint="Other domains are named in TG_KEK_AZURE_DOMAINS.",
                )
            return AzureKeyProvider(key_id, limits=self._limits)
        from tensorguard.vault.gcp import GcpKeyProvider

        return GcpKeyProvider(key_id, limits=self._limits)

    def open_first(self, reference: KekReference) -> ManagedProvider:
        """The provider for a platform that has no secrets yet; a local KEK is made.

        Raises: VaultError.
        """
        if reference == KekReference("local") and "local" not in self._instead:
            return LocalKeyProvider.open_or_create(
                self._data_dir / KEK_FILE, self._clock, passphrase=self._passphrase
            )
        return self.open(reference)

    def make_fleet_kek(self) -> LocalKeyProvider:
        """Make a local KEK in a file of its own, for one fleet. Raises: VaultError."""
        key_id = f"local-{secrets.token_hex(8)}"
        path = self._data_dir / FLEET_KEKS_FOLDER / f"{key_id}.json"
        return LocalKeyProvider.open_or_create(
            path, self._clock, passphrase=self._passphrase, key_id=key_id
        )

    def _open_local(self, key_id: str) -> LocalKeyProvider:
        own = self._data_dir / FLEET_KEKS_FOLDER / f"{key_id}.json"
        path = own if key_id and own.exists() else self._data_dir / KEK_FILE
        provider = LocalKeyProvider.open(path, self._clock, passphrase=self._passphrase)
        if key_id not in ("", provider.key_id):
            raise KeyMissing(f"{path} holds local:{provider.key_id}, not local:{key_id}")
        return provider
