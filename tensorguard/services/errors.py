"""Why a use case refuses: one root, a few kinds that the api maps to HTTP, stable codes."""


class ServiceError(Exception):
    """A use case was not carried out, and nothing was changed.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "service-error"
    hint = "Look at the service's log."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class Invalid(ServiceError):
    """What was given is not allowed by its form (HTTP 422)."""

    code = "invalid"
    hint = "Correct the named field."


class NotFound(ServiceError):
    """There is no such thing (HTTP 404)."""

    code = "not-found"
    hint = "Check the name or id."


class Conflict(ServiceError):
    """It contradicts the present state (HTTP 409)."""

    code = "conflict"
    hint = "Read the present state, and decide again."


class Denied(ServiceError):
    """Whoever asks may not do this (HTTP 403)."""

    code = "denied"
    hint = "Ask an administrator."


class Unready(ServiceError):
    """The platform is not in a state to do this (HTTP 503)."""

    code = "unready"


class PlatformNotInitialised(Unready):
    """The platform has no CA and no keys yet."""

    code = "platform-not-initialised"
    hint = "Run 'tensorguard up' once, or 'tensorguard admin bootstrap'."


class TrustDomainMismatch(Unready):
    """The database belongs to a platform with another trust domain."""

    code = "trust-domain-mismatch"
    hint = "Start with the trust domain of this database, or with another database."


class RootKeysUnusable(Unready):
    """The files of the root keys are incomplete, damaged or open to others."""

    code = "root-keys-unusable"
    hint = "Restore root-*.key and root-passphrase from their backup, both with mode 0600."


class KeyNotLoaded(Unready):
    """This process did not ask for this key when it loaded its keyring."""

    code = "key-not-loaded"
    hint = "Name the purpose in Keyring.load(only=…)."


class FleetNotFound(NotFound):
    """No fleet has this slug."""

    code = "fleet-not-found"
    hint = "List the fleets; a slug is never changed."


class FleetExists(Conflict):
    """A fleet has this slug already."""

    code = "fleet-exists"
    hint = "Choose another slug."


class TokenNotFound(NotFound):
    """No enrollment token has this id."""

    code = "enrollment-token-not-found"
    hint = "List the fleet's enrollment tokens."


class TrustBundleNotFound(NotFound):
    """No trust bundle has this version."""

    code = "trust-bundle-not-found"
    hint = "Versions begin with 1 and have no gaps; the newest is in the enrollment answer."


class TrustBundleOutdated(Conflict):
    """A trust bundle does not say what the platform's tables say, or is of another time."""

    code = "trust-bundle-outdated"
    hint = "Draft it again with 'tensorguard trust draft', and have that signed."


class AuthorityInUse(Conflict):
    """Active agents hold certificates of a CA that is to be retired."""

    code = "ca-in-use"
    hint = "Wait until they have renewed, or give them up by name with --leave."


class AuthorityRetired(Unready):
    """The CA whose key this process holds has been retired; the next moments bring the new one."""

    code = "ca-retired"
    hint = "Try again in a few seconds; if it stays, look at the service's log."


class AgentsUnaware(Conflict):
    """Agents that are online do not know the new CA yet."""

    code = "agents-unaware"
    hint = "Wait until they have fetched the trust bundle, or give them up by name with --leave."


class EnrollmentRefused(Denied):
    """A device may not enrol; the subclass says why. Nothing was stored."""

    code = "enrollment-refused"
    hint = "Ask the operator for a new join string."


class UnknownToken(EnrollmentRefused):
    """The enrollment token is none of ours (HTTP 401)."""

    code = "enrollment-token-unknown"
    hint = "Copy the whole join string once more, or ask the operator for a new one."


class TokenExpired(EnrollmentRefused):
    """The enrollment token's time is over."""

    code = "enrollment-token-expired"


class TokenExhausted(EnrollmentRefused):
    """Every use of the enrollment token is spent."""

    code = "enrollment-token-exhausted"


class TokenRevoked(EnrollmentRefused):
    """An operator has revoked the enrollment token."""

    code = "enrollment-token-revoked"


class TokenWrongNetwork(EnrollmentRefused):
    """The enrollment token may not be used from this address."""

    code = "enrollment-token-wrong-network"
    hint = "Enrol from inside the network that the operator has set, or ask for another token."


class KeyAlreadyEnrolled(EnrollmentRefused):
    """The device's certificate key or encryption key belongs to an agent already (HTTP 409)."""

    code = "key-already-enrolled"
    hint = "Make new keys for this enrollment; an identity is never enrolled twice."


class EnrollmentRejected(EnrollmentRefused):
    """An operator has rejected this device."""

    code = "enrollment-rejected"
    hint = "Ask the operator for the reason."


class TooManyPending(EnrollmentRefused, Unready):
    """As many devices as a token may have at the same time wait for an operator (HTTP 503)."""

    code = "enrollment-queue-full"
    hint = "Ask the operator to decide about the devices that wait, then enrol again."
    retry_after_s = 300


class BadFacts(EnrollmentRefused, Invalid):
    """What the device says of itself cannot be stored (HTTP 422)."""

    code = "enrollment-facts-invalid"
    hint = "Send a name of 1 to 200 characters and at most 16 KiB of facts, no control characters."
