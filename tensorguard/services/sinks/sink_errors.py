"""Why a change to sinks is refused."""

from tensorguard.services.errors import Conflict, Invalid, NotFound


class SinkNotFound(NotFound):
    """No sink has this id."""

    code = "sink-not-found"
    hint = "List the sinks."


class SinkExists(Conflict):
    """A sink has this name already."""

    code = "sink-exists"
    hint = "Choose another name."


class SinkFileTaken(Conflict):
    """Another sink writes to this file already."""

    code = "sink-file-taken"
    hint = "Choose another file name."


class TooManySinks(Conflict):
    """There are as many sinks as there may be."""

    code = "too-many-sinks"
    hint = "Delete one that is not used any more."


class SinkInvalid(Invalid):
    """A sink's configuration or secret does not fit its kind."""

    code = "sink-invalid"


class SinkKindFixed(Conflict):
    """A sink stays of its kind."""

    code = "sink-kind-fixed"
    hint = "Create another sink, and delete this one."


class SinkStateConflict(Conflict):
    """The sink is in that state already."""

    code = "sink-state"


class SinkPlaceInvalid(Invalid):
    """The ledger has no entry there yet."""

    code = "sink-place-invalid"
    hint = "Give an epoch that there was, and an index up to its size."


class DeadLetterNotFound(NotFound):
    """The sink has no such dead letter; it may have been taken meanwhile."""

    code = "dead-letter-not-found"
    hint = "List the sink's dead letters."
