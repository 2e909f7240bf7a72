"""Why a change to KEKs is refused."""

from tensorguard.services.errors import Conflict, NotFound, Unready


class KekNotFound(NotFound):
    """No KEK has this id, or the fleet has none of its own."""

    code = "kek-not-found"
    hint = "List the keys."


class KekRetired(Conflict):
    """The KEK is not in use any more."""

    code = "kek-retired"
    hint = "Look at the KEK that has taken its place."


class KekInUse(Conflict):
    """The key is in use already, or secrets still need it."""

    code = "kek-in-use"
    hint = "Look at the list of keys."


class RewrapUnderWay(Conflict):
    """Secrets are being moved, and may need what would be changed."""

    code = "rewrap-under-way"
    hint = "Wait until the job has ended."


class RewrapJobNotFound(NotFound):
    """There is no such job."""

    code = "rewrap-job-not-found"


class KekMismatch(Unready):
    """TG_KEK names another key than the one that the platform's secrets are under."""

    code = "kek-mismatch"
    hint = "Correct or unset TG_KEK; another key takes over by 'tensorguard keys migrate'."
