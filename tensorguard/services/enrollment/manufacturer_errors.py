"""Why a manufacturer CA, its proof, or a device with its certificate is refused."""

from tensorguard.services.errors import (
    Conflict,
    EnrollmentRefused,
    Invalid,
    KeyAlreadyEnrolled,
    NotFound,
)


class ManufacturerCaNotFound(NotFound):
    """No manufacturer CA of this fleet has this id."""

    code = "manufacturer-ca-not-found"
    hint = "List the fleet's manufacturer CAs."


class BadManufacturerCa(Invalid):
    """A manufacturer CA cannot be registered like this."""

    code = "manufacturer-ca-invalid"
    hint = "Give the certificate (PEM) of the CA that issues the devices' certificates directly."


class BadProof(Invalid):
    """A certificate does not prove possession of the manufacturer CA's key."""

    code = "manufacturer-ca-proof-invalid"
    hint = "Have the CA issue a certificate with CN = the challenge directly, and send that."


class ChallengeExpired(Conflict):
    """The challenge was not answered in time."""

    code = "manufacturer-ca-challenge-expired"
    hint = "Delete the manufacturer CA, register it again and answer the new challenge."


class ManufacturerCaSettled(Conflict):
    """The manufacturer CA is active or revoked already."""

    code = "manufacturer-ca-settled"
    hint = "List the fleet's manufacturer CAs; register it again to begin anew."


class ManufacturerCaExists(Conflict):
    """The CA's key is that of an active manufacturer CA, of this fleet or another."""

    code = "manufacturer-ca-exists"
    hint = "A manufacturer's devices join one fleet; revoke the other registration first."


class TooManyManufacturerCas(Conflict):
    """The fleet has as many manufacturer CAs as it may have."""

    code = "manufacturer-cas-too-many"
    hint = "Revoke those that are not needed."


class SerialNotListed(EnrollmentRefused):
    """The device's serial number is not on the manufacturer CA's list."""

    code = "device-serial-not-listed"
    hint = "Ask the operator: a list is never changed, the CA is registered again with another."


class ManufacturerCaExhausted(EnrollmentRefused):
    """As many agents as the manufacturer CA may bring have come by it."""

    code = "manufacturer-ca-exhausted"
    hint = "Ask the operator to release agents, or to register the CA again with a higher number."


class OperationalKeyNotNew(EnrollmentRefused, Invalid):
    """The request certifies the key that the manufacturer has certified."""

    code = "operational-key-not-new"
    hint = "Make a new P-256 key: the manufacturer's stays for enrolling, and nothing else."


class DeviceAlreadyEnrolled(KeyAlreadyEnrolled):
    """The device is an agent already, or was one that no operator has released."""

    code = "device-already-enrolled"
    hint = "Ask the operator to release the agent that this device was, then enrol it again."
