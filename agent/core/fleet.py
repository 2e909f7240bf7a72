"""What is said to a whole fleet: how its agents behave, and what the ledger is."""

from agent.core.belief import Belief
from agent.core.turn import Turn
from tensorguard.protocol import codec
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.messages import Checkpoint, FleetConfig, LedgerSeen, Position


def configure(turn: Turn, config: FleetConfig) -> bool:
    """Follow a verified configuration if its (epoch, revision) rises; tell whether it did."""
    old = turn.state.config
    if (config.epoch, config.revision) <= (old.epoch, old.revision):
        return False
    turn.state.config = Position(epoch=config.epoch, revision=config.revision)
    turn.state.heartbeat_interval_s = config.heartbeat_interval_s
    turn.persist()
    turn.record(
        "config.changed",
        {"revision": config.revision, "heartbeat_interval_s": config.heartbeat_interval_s},
    )
    return True


def see_checkpoint(turn: Turn, belief: Belief, payload: bytes) -> None:
    """Remember the ledger's newest checkpoint, and report one that contradicts it."""
    try:
        note = codec.decode(Checkpoint, payload).note
    except ProtocolError:
        return
    seen = belief.verify_checkpoint(turn, note)
    if seen is None:
        return
    new, old = LedgerSeen(size=seen.size, root=seen.root.hex()), turn.state.checkpoint
    if old is not None and new.size == old.size and new.root != old.root:
        # Two signed roots for one size prove that the ledger was forked.
        details = {"size": new.size, "seen": old.root, "now": new.root}
        turn.record("policy.violation", {"what": "ledger-fork"} | details)
    elif old is None or new.size > old.size:
        turn.state.checkpoint = new
        turn.persist()
