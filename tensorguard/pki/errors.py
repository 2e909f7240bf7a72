"""Why a certificate, a signing request, a key or a trust bundle is refused."""


class PkiError(Exception):
    """Something presented as proof of identity must not be believed.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "pki-error"
    hint = "Enrol the device again, or ask the operator of the platform."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class BadIdentity(PkiError):
    """A URI names neither an agent nor a service in exactly the form we issue."""

    code = "bad-identity"
    hint = "Use spiffe://<trust-domain>/fleet/<fleet>/agent/<agent_id> or …/service/<name>."


class CertificateRefused(PkiError):
    """A certificate must not be believed; the subclass says why."""

    code = "certificate-refused"


class BadCertificate(CertificateRefused):
    """A certificate is damaged or is not of the profile that the platform issues."""

    code = "bad-certificate"


class WrongTrustDomain(CertificateRefused):
    """A certificate belongs to another platform."""

    code = "wrong-trust-domain"
    hint = "Connect the device to the platform that it was enrolled with."


class WrongIssuer(CertificateRefused):
    """A certificate was not issued directly by a current platform CA."""

    code = "wrong-issuer"


class CertificateExpired(CertificateRefused):
    """A certificate's notAfter has passed."""

    code = "certificate-expired"
    hint = "Check the clock of this machine; if it is right, enrol the device again."


class CertificateNotYetValid(CertificateRefused):
    """A certificate's notBefore has not come."""

    code = "certificate-not-yet-valid"
    hint = "Check the clock of this machine."


class CannotIssue(PkiError):
    """The CA cannot issue what was asked for."""

    code = "cannot-issue"
    hint = "Check the platform CA's validity and the names in the request."


class CsrRefused(PkiError):
    """A certificate signing request is refused; the subclass says why."""

    code = "csr-refused"
    hint = "Make a P-256 key and sign the request with it: openssl req -new -sha256 -key key.pem."


class CsrTooLarge(CsrRefused):
    """A signing request is larger than any P-256 request needs to be."""

    code = "csr-too-large"


class CsrMalformed(CsrRefused):
    """A signing request is not exactly one PEM block with a PKCS #10 request in it."""

    code = "csr-malformed"


class CsrWrongKey(CsrRefused):
    """A signing request has a key that is not P-256."""

    code = "csr-wrong-key"


class CsrBadSignature(CsrRefused):
    """A signing request does not prove possession of its key."""

    code = "csr-bad-signature"


class BadKey(PkiError):
    """Bytes that should be a key are not one."""

    code = "bad-key"
    hint = "Send the raw 32 bytes of a freshly generated key, in base64."


class BundleRefused(PkiError):
    """A trust bundle must not be believed; the subclass says why."""

    code = "bundle-refused"
    hint = "Fetch the trust bundles one by one from /device/v1/trust/{version}."


class BadBundle(BundleRefused):
    """A trust bundle is not well-formed, or contradicts itself."""

    code = "bad-bundle"


class BundleNotNext(BundleRefused):
    """A trust bundle is not the version that follows the current one."""

    code = "bundle-not-next"


class BundleBelowThreshold(BundleRefused):
    """Too few root keys have signed a trust bundle."""

    code = "bundle-below-threshold"


class BundleExpired(BundleRefused):
    """A trust bundle's expires_at has passed."""

    code = "bundle-expired"
    hint = "Check the clock of this device; if it is right, publish a newer trust bundle."
