"""What AWS KMS means by its errors.

https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html, and each operation's page.
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


class OtherMaterial(ImportRefused):
    """The material is not the one that this key has had."""


_CODES: Final[dict[str, tuple[type[VaultError], str]]] = {
    "NotFoundException": (KeyMissing, "AWS KMS has no such key in this account and region"),
    "InvalidArnException": (KeyMissing, "AWS KMS does not know this ARN in this region"),
    "DisabledException": (KeyDisabled, "the KMS key is disabled"),
    "InvalidCiphertextException": (
        WrongContext,
        "AWS KMS does not open the wrapped key: another context, or changed bytes",
    ),
    "IncorrectKeyException": (Corrupted, "the wrapped key is under another KMS key"),
    "InvalidKeyUsageException": (NotSupported, "the KMS key is not for encryption"),
    "UnsupportedOperationException": (NotSupported, "AWS KMS cannot do this with this key"),
    "LimitExceededException": (NotSupported, "AWS KMS rotates a key on demand ten times at most"),
    "ConflictException": (Unavailable, "a rotation of the KMS key is under way"),
    "IncorrectKeyMaterialException": (OtherMaterial, "the key has had other material before"),
    "ExpiredImportTokenException": (ImportRefused, "the import parameters have expired"),
    "InvalidImportTokenException": (ImportRefused, "the import token is of another key or request"),
    "AccessDeniedException": (PermissionDenied, "AWS KMS does not let this process use the key"),
    "UnrecognizedClientException": (PermissionDenied, "AWS does not know these credentials"),
    "InvalidClientTokenId": (PermissionDenied, "AWS does not know these credentials"),
    "InvalidSignatureException": (PermissionDenied, "AWS does not accept the request's signature"),
    "IncompleteSignatureException": (
        PermissionDenied,
        "AWS does not accept the request's signature",
    ),
    "MissingAuthenticationToken": (PermissionDenied, "the request to AWS had no credentials"),
    "MissingAuthenticationTokenException": (
        PermissionDenied,
        "the request to AWS had no credentials",
    ),
    "ExpiredTokenException": (PermissionDenied, "the AWS credentials have expired"),
    "OptInRequired": (PermissionDenied, "the AWS account is not signed up for this region"),
    "ThrottlingException": (Throttled, "AWS KMS asks to be called less often"),
    "Throttling": (Throttled, "AWS KMS asks to be called less often"),
    "RequestLimitExceeded": (Throttled, "AWS KMS asks to be called less often"),
    "TooManyRequestsException": (Throttled, "AWS KMS asks to be called less often"),
    "KMSInternalException": (Unavailable, "AWS KMS has an internal error"),
    "DependencyTimeoutException": (Unavailable, "AWS KMS had a timeout inside"),
    "KeyUnavailableException": (Unavailable, "the KMS key is not available at the moment"),
}
_UNREACHABLE: Final = frozenset(
    {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
        "HTTPClientError",
        "SSLError",
        "ProxyConnectionError",
    }
)
_NO_CREDENTIALS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "ProfileNotFound",
    }
)


def translate(error: Exception) -> VaultError:
    """Return what an exception of boto3 means; never with its text, which may quote the request."""
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return _by_code(response)
    name = type(error).__name__
    if name in _UNREACHABLE:
        return Unavailable(f"AWS KMS cannot be reached ({name})")
    if name in _NO_CREDENTIALS:
        return PermissionDenied(
            f"there are no AWS credentials ({name})",
            hint="Give the process a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    if name in ("ResponseParserError", "JSONDecodeError", "KeyError", "UnicodeDecodeError"):
        return Corrupted(f"AWS KMS answered with something that is no answer ({name})")
    return VaultError(f"AWS KMS failed ({name})")


def _by_code(response: dict[str, dict[str, object]]) -> VaultError:
    code = str(response["Error"].get("Code", "")).rpartition("#")[2]
    if code == "KMSInvalidStateException":
        return _by_state(str(response["Error"].get("Message", "")).lower())
    if code in _CODES:
        kind, text = _CODES[code]
        return kind(f"{text} ({code})")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 429:
        return Throttled(f"AWS KMS asks to be called less often ({status})")
    if isinstance(status, int) and status >= 500:
        return Unavailable(f"AWS KMS answered {status}")
    if isinstance(status, int) and 200 <= status < 300:
        return Corrupted("AWS KMS answered with something that is no answer")
    return VaultError(f"AWS KMS refused the request ({code[:60] or status})")


def _by_state(message: str) -> VaultError:
    """The only place where KMS tells a state by words."""
    if "deletion" in message:
        return KeyPendingDeletion("the KMS key is pending deletion")
    if "import" in message:
        return KeyMissing(
            "the KMS key has no material: it expired, was deleted or never imported",
            hint="Import the key material again: 'tensorguard keys import'.",
        )
    if "disabled" in message:
        return KeyDisabled("the KMS key is disabled")
    return Unavailable("the KMS key is in a state in which it cannot be used at the moment")
