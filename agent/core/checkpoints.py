"""Ledger checkpoints: many devices remember what the ledger once was."""

from agent.core.belief import Belief
from agent.core.turn import Turn
from tensorguard.ledger.checkpoint import epoch_of
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
    epoch = epoch_of(seen.origin)
    new, old = LedgerSeen(epoch=epoch, size=seen.size, root=seen.root.hex()), turn.state.checkpoint
    if old is not None and (new.epoch, new.size) == (old.epoch, old.size) and new.root != old.root:
        # Two signed roots for one size prove that the ledger was forked.
        details = {"epoch": new.epoch, "size": new.size, "seen": old.root, "now": new.root}
        turn.record("policy.violation", {"what": "ledger-fork"} | details)
    elif old is None or (new.epoch, new.size) > (old.epoch, old.size):
        # A new epoch, which begins after a restore, is a tree of its own and starts small.
        turn.state.checkpoint = new
        turn.persist()
