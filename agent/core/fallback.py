"""Going back: to the last good package that is still on the device, and what is told of it."""

from agent.core.errors import JobFailure
from agent.core.state import AgentState, Installed
from agent.core.turn import Turn
from tensorguard.protocol.messages import Desired


def find_on_device(state: AgentState, desired: Desired) -> Installed | None:
    """Return the last good package if the document asks for it and its files are still here.

    What is sealed at rest takes a new grant. Only what may be older than what has run is let back.
    """
    package, last_good = desired.package, state.last_good
    if package is None or last_good is None or last_good.digest != package.digest:
        return None
    if last_good.at_rest != "plain":
        return None
    floor = state.floors.get(last_good.name)
    newest = floor is None or last_good.seq >= floor.seq
    return last_good if desired.allow_downgrade or newest else None


def record_failure(
    turn: Turn, step: str, digest: str, failure: JobFailure, running: Installed | None
) -> None:
    """Put the failure of a step into the outbox; `running` is what runs on because of it."""
    details = {"digest": digest, "code": failure.code}
    if failure.kind == "signature":
        turn.record("signature.refused", details | {"what": "package"})
    elif step == "OPEN":
        turn.record("decryption.failed", details)
    elif step == "ACTIVATE":
        turn.record("activation.failed", details | {"reason": failure.reason})
        if running is not None:
            turn.record("fell-back", {"from": digest, "to": running.digest})
    elif step == "VERIFY" or failure.kind == "damaged":
        turn.record("package.refused", details | {"reason": failure.reason})
