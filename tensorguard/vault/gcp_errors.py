"""What Google Cloud KMS means by its errors: gRPC status codes, and a state told by words.

https://cloud.google.com/kms/docs/reference/rpc, https://cloud.google.com/kms/docs/key-states
"""

from typing import Final

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

_UNREACHABLE: Final = frozenset(
    {
        "ServiceUnavailable",
        "DeadlineExceeded",
        "GatewayTimeout",
        "InternalServerError",
        "RetryError",
        "Cancelled",
        "Aborted",
        "TransportError",
        "BadGateway",
    }
)


def translate(error: Exception) -> VaultError:
    """Return what an exception of google-cloud-kms means; never with its text."""
    names = {base.__name__ for base in type(error).__mro__}
    name = type(error).__name__
    if "FailedPrecondition" in names:
        return _by_state(str(getattr(error, "message", "")).lower())
    if "NotFound" in names:
        return KeyMissing(
            "Cloud KMS has no such key or version; mind project and location",
        )
    if names & {"PermissionDenied", "Forbidden", "Unauthenticated", "Unauthorized"}:
        return PermissionDenied(f"Cloud KMS does not let this process use the key ({name})")
    if names & {"DefaultCredentialsError", "RefreshError", "GoogleAuthError"}:
        return PermissionDenied(
            f"there are no Google Cloud credentials ({name})",
            hint="Give the process a service account, or GOOGLE_APPLICATION_CREDENTIALS.",
        )
    if names & {"ResourceExhausted", "TooManyRequests"}:
        return Throttled("Cloud KMS asks to be called less often")
    if names & {"InvalidArgument", "BadRequest"}:
        return _by_argument(str(getattr(error, "message", "")).lower())
    if names & _UNREACHABLE:
        return Unavailable(f"Cloud KMS cannot be reached, or did not answer in time ({name})")
    if names & {"AlreadyExists", "Conflict"}:
        return ImportRefused("Cloud KMS has an object of this name already")
    if names & {"DecodeError", "Unknown", "DataLoss"}:
        return Corrupted(f"Cloud KMS answered with something that is no answer ({name})")
    return VaultError(f"Cloud KMS failed ({name})")


def _by_state(message: str) -> VaultError:
    if "destroy" in message:
        return KeyPendingDeletion("the key version in Cloud KMS is destroyed, or about to be")
    if "disabled" in message:
        return KeyDisabled("the key version in Cloud KMS is disabled")
    if "import" in message:
        return ImportRefused("the import job or the imported version is not in a usable state")
    return KeyDisabled("the key in Cloud KMS is not in a state in which it can be used")


def _by_argument(message: str) -> VaultError:
    if "decryption failed" in message:
        return WrongContext(
            "Cloud KMS does not open the wrapped key: another context, or changed bytes"
        )
    if "crc32c" in message or "checksum" in message:
        return Corrupted("the request reached Cloud KMS changed: its checksum does not match")
    if "location" in message:
        return KeyMissing("Cloud KMS does not serve the key's location at this address")
    return NotSupported("Cloud KMS refused the request for this key")
