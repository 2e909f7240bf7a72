"""Ledger checkpoints: many devices remember what the ledger once was."""

from agent.core.belief import Belief
from agent.core.turn import Turn
from tensorguard.protocol import codec
from tensorguard.protocol.errors import ProtocolError
from tensorguard.protocol.messages import Checkpoint, LedgerSeen


def see(turn: Turn, belief: Belief, payload: bytes) -> None:
    """Remember the newest checkpoint that is believed; report one that contradicts it."""
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
