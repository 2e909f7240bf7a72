"""Why a publisher, package, release or deployment is refused."""

from tensorguard.services.errors import Conflict, Denied, Invalid, NotFound, Unready


class PublisherNotFound(NotFound):
    """No publisher has this key id."""

    code = "publisher-not-found"
    hint = "List the publishers."


class PublisherExists(Conflict):
    """This key is registered already."""

    code = "publisher-exists"
    hint = "A key is registered once; make a new one with 'tensorguard tgsp keygen publisher'."


class PublisherIsRevoked(Conflict):
    """This publisher's signature counts no more already."""

    code = "publisher-revoked"
    hint = "Nothing is left to do: the next trust bundle tells the agents."


class BadPublisher(Invalid):
    """A publisher's key, names or validity cannot be."""

    code = "publisher-invalid"
    hint = "Give an Ed25519 public key (PEM) and package names, '*' at the end for a prefix."


class PublisherNotInForce(Conflict):
    """The publisher of a package is not valid now, or may not sign packages of its name."""

    code = "publisher-not-in-force"
    hint = "Deploy a package of another publisher, or change what this one may sign and until when."


class PublisherUnpublished(Conflict):
    """Agents have not been told of the publisher of a package."""

    code = "publisher-unpublished"
    hint = "Publish the next trust bundle: 'tensorguard trust draft', 'sign', 'publish'."


class PackageNotFound(NotFound):
    """No package has this digest."""

    code = "package-not-found"
    hint = "List the packages; a digest is the SHA-256 of the manifest in hex."


class PackageSeqTaken(Conflict):
    """Another package of this name has this seq."""

    code = "package-seq-taken"
    hint = "Build with the next seq; per name it only ever rises."


class PackageVersionTaken(Conflict):
    """Another package of this name has this version."""

    code = "package-version-taken"
    hint = "Build with another version."


class PackageUnusable(Invalid):
    """A package is well signed, but this platform could never deploy it."""

    code = "package-unusable"
    hint = "Build the package once more, for the recipient key of this platform."


class PackageFileMissing(Unready):
    """The database knows a package whose file is not in the store."""

    code = "package-file-missing"
    hint = "Restore the package store from the same backup as the database."


class PackageWithdrawn(Conflict):
    """A package, or the publisher who signed it, is no longer to be deployed."""

    code = "package-withdrawn"
    hint = "Deploy another release."


class ReleaseNotFound(NotFound):
    """There is no such release."""

    code = "release-not-found"
    hint = "List the releases."


class ReleaseExists(Conflict):
    """A release of this name and version exists; releases are never changed."""

    code = "release-exists"
    hint = "Choose another version."


class BadRelease(Invalid):
    """A release's name or version is not allowed."""

    code = "release-invalid"
    hint = "Names look like 'face-model', versions like '1.4.0' (SemVer)."


class DeploymentNotFound(NotFound):
    """There is no such deployment."""

    code = "deployment-not-found"
    hint = "List the deployments."


class NoEligibleAgents(Conflict):
    """Nobody would get the release."""

    code = "no-eligible-agents"
    hint = "Look at the preview: it says who was left out, and why."


class ApprovalOutdated(Conflict):
    """What was agreed to is not what would start."""

    code = "approval-outdated"
    hint = "Ask for it once more."


class NothingToRetry(Conflict):
    """No agent may be sent the release again."""

    code = "nothing-to-retry"
    hint = "Policy refusals are final; for more retries start a new deployment of the release."


class DownloadRefused(Denied):
    """A download link is not, or no longer, good for this agent."""

    code = "download-refused"
    hint = "Ask for the desired document once more: it brings a new link."


class DownloadExpired(DownloadRefused):
    """A download link's time is over."""

    code = "download-expired"


class TooManyDownloads(Unready):
    """As many downloads run as this fleet may have (HTTP 503 with Retry-After)."""

    code = "too-many-downloads"
    hint = "Try again after the seconds in Retry-After, with jitter."
    retry_after_s = 5
