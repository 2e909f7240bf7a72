"""Why a key provider or a sealed secret does not give what was asked for."""


class VaultError(Exception):
    """A key or a sealed secret cannot be used.

    `code` is stable and machine-readable; `message` says what is wrong and never holds key
    material; `hint` says what to do; `retriable` tells whether the same call may succeed later.
    """

    code = "vault-error"
    hint = "Check the key provider."
    retriable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class KeyMissing(VaultError):
    """The provider has no such key, or not this version of it."""

    code = "key-missing"
    hint = "Restore the key that sealed the secrets, from the same backup as the database."


class KeyDisabled(VaultError):
    """The key, or this version of it, is disabled."""

    code = "key-disabled"
    hint = "Enable the key in its provider."


class KeyPendingDeletion(VaultError):
    """The key is about to be destroyed."""

    code = "key-pending-deletion"
    hint = "Cancel the deletion in the provider, or rewrap the secrets under another key."


class PermissionDenied(VaultError):
    """The provider does not let this process use the key, or its protection is too weak."""

    code = "key-permission-denied"
    hint = "Give the platform's account the right to wrap and unwrap with this key."


class Throttled(VaultError):
    """The provider asks to be called less often."""

    code = "key-provider-throttled"
    hint = "Try again later."
    retriable = True


class Unavailable(VaultError):
    """The provider cannot be reached, or did not answer in time."""

    code = "key-provider-unavailable"
    hint = "Check that the provider can be reached from this machine."
    retriable = True


class WrongContext(VaultError):
    """A secret was sealed for another purpose or owner."""

    code = "wrong-context"
    hint = "A sealed row was copied or exchanged; restore it from a backup."


class Corrupted(VaultError):
    """Key file, wrapped key or ciphertext is damaged."""

    code = "corrupted"
    hint = "Restore it from a backup."


class NotSupported(VaultError):
    """The provider cannot do this."""

    code = "not-supported"
    hint = "Do it with the provider's own tools."


class BadReference(VaultError):
    """This names no key of any provider."""

    code = "bad-key-reference"
    hint = "Write local, aws:ARN, azure:URL or gcp:RESOURCE."


class ImportRefused(VaultError):
    """The provider does not take the key material."""

    code = "key-import-refused"
    hint = "Fetch new import parameters, wrap the material for them, and import it within a day."


class MissingLibrary(VaultError):
    """The provider's SDK is not installed."""

    code = "missing-extra"


class KeyVersionInUse(VaultError):
    """Secrets are still wrapped under this version."""

    code = "key-version-in-use"
    hint = "Rewrap first: 'tensorguard keys rewrap'."
