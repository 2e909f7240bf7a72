"""What kinds of key providers there are, and what each can do."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from tensorguard.vault.errors import NotSupported
from tensorguard.vault.reference import PROVIDERS, ProviderName, form_of


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """One kind of provider: `form` is how its keys are named, `extra` what has to be installed.

    A cloud that can neither disable nor destroy one version of a key does so to whole keys only.
    """

    name: ProviderName
    form: str
    installed: bool
    extra: str | None
    disables_versions: bool
    destroys_versions: bool


_MODULES: Final[dict[ProviderName, tuple[str, ...]]] = {
    "local": (),
    "aws": ("boto3",),
    "azure": ("azure.keyvault.keys", "azure.identity"),
    "gcp": ("google.cloud.kms_v1",),
}
_DISABLE_VERSIONS: Final = frozenset({"local", "azure", "gcp"})
_DESTROY_VERSIONS: Final = frozenset({"local", "gcp"})


def find_providers() -> list[ProviderFacts]:
    """Return what there is to say of each kind of provider, in this process."""
    return [
        ProviderFacts(
            name=name,
            form=form_of(name),
            installed=all(_is_installed(module) for module in _MODULES[name]),
            extra=f"tensorguard-platform[{name}]" if _MODULES[name] else None,
            disables_versions=name in _DISABLE_VERSIONS,
            destroys_versions=name in _DESTROY_VERSIONS,
        )
        for name in PROVIDERS
    ]


def check_destroys_versions(provider: str) -> None:
    """Refuse to ask anybody for what cannot be done. Raises: NotSupported."""
    if provider not in _DESTROY_VERSIONS:
        raise NotSupported(f"{provider} destroys whole keys, never one version of them")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False
