"""Every reason to refuse a package, each with a stable code and the way out."""


class TgspError(Exception):
    """A package is not built, believed or opened.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "tgsp-error"
    hint = "Compare the package with docs/tgsp.md."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class BadContainer(TgspError):
    """The bytes are not the sections of a package."""

    code = "bad-container"
    hint = "The file is damaged: fetch it once more."


class NotAPackage(BadContainer):
    """The file does not start with the eight magic bytes."""

    code = "not-a-package"
    hint = "Name a .tgsp file; if it is one, a text-mode transfer has damaged it."


class Truncated(BadContainer):
    """The file ends before its sections do."""

    code = "truncated"


class TrailingBytes(BadContainer):
    """The file goes on after its payload."""

    code = "trailing-bytes"


class SectionTooLarge(BadContainer):
    """A section is longer than the format allows."""

    code = "section-too-large"
    hint = "MANIFEST may have 1 MiB, SIGS 64 KiB, GRANTS 4 MiB."


class WrongPackage(TgspError):
    """The package's digest is not the one that was asked for."""

    code = "wrong-package"
    hint = "Fetch the package that the desired document names."


class SignatureError(TgspError):
    """No signature makes the manifest believable."""

    code = "signature-error"
    hint = "Have the package signed by a registered publisher."


class BadSigs(SignatureError):
    """SIGS is not the list that the format asks for."""

    code = "bad-sigs"


class DuplicateSigner(BadSigs):
    """SIGS names a publisher twice."""

    code = "duplicate-signer"


class Unsigned(SignatureError):
    """SIGS is empty."""

    code = "unsigned"


class UnknownPublisher(SignatureError):
    """No signature is by a publisher key that the verifier holds."""

    code = "unknown-publisher"
    hint = "Register the publisher's key, or have the package signed by a registered publisher."


class PublisherNotYetValid(SignatureError):
    """The publisher key that has signed is held, but counts only from a later time on."""

    code = "publisher-not-yet-valid"
    hint = "Check this machine's clock, or wait until the publisher is valid."


class PublisherExpired(SignatureError):
    """The publisher key that has signed is held, but its time is over."""

    code = "publisher-expired"
    hint = "Have the package signed by the publisher's successor, or extend its validity."


class UnknownSignatureAlg(SignatureError):
    """A held publisher key is named with an algorithm that this version does not know."""

    code = "unknown-signature-alg"
    hint = "Have the package signed with Ed25519, or use a newer version."


class BadSignature(SignatureError):
    """A held publisher key's signature does not verify."""

    code = "bad-signature"
    hint = "The manifest was changed after signing: fetch or build the package once more."


class PublisherNotAllowed(SignatureError):
    """The publisher may not sign packages of this name."""

    code = "publisher-not-allowed"
    hint = "Allow the publisher this package name, or have another publisher sign."


class NotCanonical(TgspError):
    """The manifest is not deterministic CBOR (RFC 8949 section 4.2.1)."""

    code = "not-canonical"
    hint = "Build the package with a tool that writes deterministic CBOR without tags."


class BadManifest(TgspError):
    """The manifest is not the map that the format asks for."""

    code = "bad-manifest"


class BadPath(BadManifest):
    """A file's path is unsafe, or collides with another on some file system."""

    code = "bad-path"
    hint = (
        "Rename the file: relative, '/' between names, no '..', no clash in case or Unicode form."
    )


class UnknownPolicy(BadManifest):
    """The policy names something that this version does not know and so cannot keep."""

    code = "unknown-policy"
    hint = "Use a newer version, or build without this policy."


class UnknownPayloadAlg(BadManifest):
    """The payload is encrypted in a way that this version does not know."""

    code = "unknown-payload-alg"
    hint = "Build the package with cobblestone-256, or use a newer version."


class LengthMismatch(BadManifest):
    """The payload in the file is not as long as the signed manifest says."""

    code = "length-mismatch"
    hint = "The file is damaged or was put together from two packages: fetch it once more."


class OutsideWindow(TgspError):
    """The package is not valid at this time."""

    code = "outside-window"


class NotYetValid(OutsideWindow):
    """The validity window has not begun."""

    code = "not-yet-valid"
    hint = "Check this machine's clock, or wait until the package is valid."


class Expired(OutsideWindow):
    """The validity window is over."""

    code = "expired"
    hint = "Check this machine's clock, or build the package with a later end."


class WrongTarget(TgspError):
    """The package is not meant for this agent."""

    code = "wrong-target"


class WrongFleet(WrongTarget):
    """The package is for other fleets."""

    code = "wrong-fleet"
    hint = "Deploy it to a fleet that it names, or build it for this one."


class SelectorMismatch(WrongTarget):
    """The package's selector does not match this agent's tags."""

    code = "selector-mismatch"
    hint = "Compare the agent's tags with the selector."


class WrongHardware(WrongTarget):
    """The package needs hardware that this agent does not have."""

    code = "wrong-hardware"
    hint = "Build the package for this hardware, or deploy it elsewhere."


class AgentTooOld(WrongTarget):
    """The package needs a newer agent."""

    code = "agent-too-old"
    hint = "Update the agent."


class SeqTooLow(TgspError):
    """The package is older than what was already accepted under its name."""

    code = "seq-too-low"
    hint = (
        "Build with a higher seq; a deliberate downgrade needs a desired document that allows it."
    )


class GrantError(TgspError):
    """There is no usable grant."""

    code = "grant-error"
    hint = "Ask the platform for a grant."


class BadGrants(GrantError):
    """GRANTS is not the list that the format asks for."""

    code = "bad-grants"
    hint = "The file is damaged: fetch it once more."


class DuplicateRecipient(BadGrants):
    """GRANTS names a recipient twice."""

    code = "duplicate-recipient"


class NoGrant(GrantError):
    """The package carries no grant for this recipient key."""

    code = "no-grant"
    hint = "Use the key that the package was built for, or ask the platform for a grant."


class UnknownGrantAlg(GrantError):
    """The grant for this recipient key is sealed in a way that this version does not know."""

    code = "unknown-grant-alg"


class GrantExpired(GrantError):
    """The grant's time is over."""

    code = "grant-expired"


class GrantRefused(GrantError):
    """The grant does not open: another key, another package, or a changed expiry."""

    code = "grant-refused"


class PayloadError(TgspError):
    """The payload is not what the signed manifest promises."""

    code = "payload-error"
    hint = "The file is damaged: fetch it once more."


class WrongDek(PayloadError):
    """The granted key is not the one that this payload was encrypted with for this manifest."""

    code = "wrong-dek"
    hint = "Grant and payload are of two packages: fetch it, and ask for a grant, once more."


class PayloadRefused(PayloadError):
    """A chunk of the payload was changed, moved, taken away or added."""

    code = "payload-refused"


class CiphertextMismatch(PayloadError):
    """The payload's digest is not the one in the manifest."""

    code = "ciphertext-mismatch"


class FileMismatch(PayloadError):
    """A decrypted file's digest is not the one in the manifest."""

    code = "file-mismatch"
    hint = "The package was built wrongly: build it once more."


class OutputError(TgspError):
    """The result cannot be put where it was asked for."""

    code = "output-error"


class OutputExists(OutputError):
    """Something is in the way of the result."""

    code = "output-exists"
    hint = "Name a new or empty folder, or remove what is there."


class OutOfSpace(OutputError):
    """The disk, the quota or the file size limit is exhausted."""

    code = "out-of-space"
    hint = "Free space and run it again; nothing was left behind."


class SealedAtRest(OutputError):
    """The policy forbids the plaintext on a disk."""

    code = "sealed-at-rest"
    hint = "Open it into memory-backed storage and say so."


class SourceError(TgspError):
    """The source cannot be packaged."""

    code = "source-refused"
    hint = "Name a regular file, or a folder of regular files without links."


class TooManyFiles(SourceError):
    """The source has more files than a manifest can name."""

    code = "too-many-files"
    hint = "Put the files into one archive, and package that."


class SourceChanged(SourceError):
    """A source file changed while it was read."""

    code = "source-changed"
    hint = "Build again when nothing writes to the source."


class BadKey(TgspError):
    """A key file holds no key of the needed kind."""

    code = "bad-key"
    hint = "Make keys with: tensorguard tgsp keygen publisher|recipient --out PREFIX"


class FileFailed(TgspError):
    """The operating system refuses to read or write a file."""

    code = "file-failed"
    hint = "Check the path, its permissions and the disk."
