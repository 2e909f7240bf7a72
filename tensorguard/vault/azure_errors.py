"""What Azure Key Vault means by its errors.

https://learn.microsoft.com/azure/key-vault/general/rest-error-codes
"""

from typing import Any, Final

from tensorguard.vault.errors import (
    Corrupted,
    ImportRefused,
    KeyDisabled,
    KeyMissing,
    KeyPendingDeletion,
    NotSupported,
    PermissionDenied,
    Throttled,
    Unavailable,
    VaultError,
    WrongContext,
)

_BY_INNER: Final[dict[str, tuple[type[VaultError], str]]] = {
    "KeyDisabled": (KeyDisabled, "the key in Azure Key Vault is disabled"),
    "KeyExpired": (KeyMissing, "the key in Azure Key Vault has expired"),
    "KeyNotYetValid": (KeyDisabled, "the key in Azure Key Vault is not valid yet"),
    "ObjectIsBeingDeleted": (KeyPendingDeletion, "the key is being deleted"),
    "ObjectIsDeletedButRecoverable": (KeyPendingDeletion, "the key was deleted"),
    "BadParameter": (WrongContext, "Azure Key Vault does not open the wrapped key"),
}
_UNREACHABLE: Final = frozenset(
    {
        "ServiceRequestError",
        "ServiceRequestTimeoutError",
        "ServiceResponseError",
        "ServiceResponseTimeoutError",
        "IncompleteReadError",
    }
)


def translate(error: Exception) -> VaultError:
    """Return what an exception of the Azure SDKs means; never with its text."""
    name = type(error).__name__
    if name in _UNREACHABLE:
        return Unavailable(f"Azure Key Vault cannot be reached ({name})")
    if name in ("ClientAuthenticationError", "CredentialUnavailableError"):
        return PermissionDenied(
            f"Azure does not accept the credentials, or there are none ({name})",
            hint="Give the process a managed identity, or AZURE_TENANT_ID, AZURE_CLIENT_ID and"
            " AZURE_CLIENT_SECRET.",
        )
    if name in ("DecodeError", "DeserializationError", "JSONDecodeError", "KeyError", "Error"):
        return Corrupted(f"Azure Key Vault answered with something that is no answer ({name})")
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _by_status(status, *_codes(error))
    if isinstance(error, ValueError):
        # A challenge for another domain, or times of a key that are over.
        return PermissionDenied("the vault's answer cannot be trusted, or its key is not valid now")
    return VaultError(f"Azure Key Vault failed ({name})")


def _codes(error: Any) -> tuple[str, str]:
    """Return the code and the inner code of the service's error."""
    model = getattr(error, "error", None)
    inner = getattr(model, "innererror", None) or {}
    found = inner.get("code", "") if isinstance(inner, dict) else getattr(inner, "code", "")
    return str(getattr(model, "code", "") or ""), str(found or "")


def _by_status(status: int, code: str, inner: str) -> VaultError:
    for name in (inner, code):
        if name in _BY_INNER:
            kind, text = _BY_INNER[name]
            return kind(f"{text} ({name})")
    told = inner or code or str(status)
    if status in (401, 403):
        return PermissionDenied(f"Azure Key Vault does not let this process use the key ({told})")
    if status == 404:
        return KeyMissing(f"this vault has no such key or version ({told})")
    if status == 409:
        return ImportRefused(f"Azure Key Vault has another object of this name ({told})")
    if status == 429:
        return Throttled(f"Azure Key Vault asks to be called less often ({told})")
    if status == 408 or status >= 500:
        return Unavailable(f"Azure Key Vault answered {status}")
    if status < 300:
        return Corrupted("Azure Key Vault answered with something that is no answer")
    return NotSupported(f"Azure Key Vault refused the request ({told[:60]})")
