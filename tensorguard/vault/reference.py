"""How a KEK is named: `local`, `aws:ARN`, `azure:URL`, `gcp:RESOURCE`."""

import re
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

from tensorguard.vault.errors import BadReference

ProviderName = Literal["local", "aws", "azure", "gcp"]
PROVIDERS: Final[tuple[ProviderName, ...]] = get_args(ProviderName)

# An alias of AWS or a version of Azure is refused: a KEK's name has to stay the same key, whoever
# may change what an alias points to, and its versions are rotated here.
_PATTERNS: Final = {
    "local": (re.compile(r"(?:[a-z0-9][a-z0-9-]{0,63})?"), "local, or local:ID"),
    "aws": (
        re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]{1,32}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}"),
        "aws:arn:aws:kms:REGION:ACCOUNT:key/ID; an alias may change what it names",
    ),
    "azure": (
        re.compile(r"https://[A-Za-z0-9.-]{1,200}(?::[0-9]{1,5})?/keys/[A-Za-z0-9-]{1,127}"),
        "azure:https://VAULT.vault.azure.net/keys/NAME, without a version",
    ),
    "gcp": (
        re.compile(
            r"projects/[^/\s]{1,63}/locations/[a-z0-9-]{1,63}/keyRings/[A-Za-z0-9_-]{1,63}"
            r"/cryptoKeys/[A-Za-z0-9_-]{1,63}"
        ),
        "gcp:projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version",
    ),
}


@dataclass(frozen=True, slots=True)
class KekReference:
    """A provider and its name for the key; an empty `key_id` is this machine's own KEK file."""

    provider: ProviderName
    key_id: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes. Raises: BadReference."""
        provider, _, key_id = text.strip().partition(":")
        return cls.of(provider, key_id)

    @classmethod
    def of(cls, provider: str, key_id: str) -> Self:
        """Check a provider and its name for a key. Raises: BadReference."""
        if provider not in PROVIDERS:
            raise BadReference(
                f"{provider[:40]!r} is no key provider; there are: {', '.join(PROVIDERS)}"
            )
        pattern, form = _PATTERNS[provider]
        if not pattern.fullmatch(key_id):
            raise BadReference(f"{key_id[:200]!r} is not a key of {provider}", hint=f"Write {form}")
        return cls(provider, key_id)

    def __str__(self) -> str:
        return f"{self.provider}:{self.key_id}" if self.key_id else self.provider


def form_of(provider: ProviderName) -> str:
    """How the keys of a provider are named, for people."""
    return _PATTERNS[provider][1]
