"""Commands: each runs at most once, remembered by id until it expires."""

from typing import Any
from uuid import UUID

from agent.core.effects import CollectLogs, Diagnose, Restart
from agent.core.turn import Turn
from tensorguard.protocol.messages import Command, Reply
from tensorguard.protocol.topics import UpKind, is_fleet

MAX_REMEMBERED = 1_000


def run(turn: Turn, command: Command) -> str | None:
    """Start a verified command, unless it was started before; remember it first.

    Returns the fleet that the agent has to move to, if it is that.
    """
    remembered = turn.state.commands
    for command_id in [known for known, expiry in remembered.items() if expiry <= turn.now]:
        del remembered[command_id]
    if command.command_id in remembered:
        return None
    if len(remembered) >= MAX_REMEMBERED:
        _reply_refused(turn, command, "too many commands that have not expired")
        return None
    remembered[command.command_id] = command.expires_at
    turn.persist()
    fleet = command.arguments.get("fleet") if command.kind == "move" else None
    if command.kind == "move" and not (isinstance(fleet, str) and is_fleet(fleet)):
        _reply_refused(turn, command, "that is no fleet")
        return None
    turn.record("command.executed", {"command_id": str(command.command_id), "kind": command.kind})
    turn.publish(UpKind.REPLY, Reply(command_id=command.command_id, state="acknowledged"))
    if command.kind == "diagnostics":
        turn.do(Diagnose(command.command_id))
    elif command.kind == "collect-logs":
        turn.do(CollectLogs(command.command_id))
    elif command.kind == "set-tags":
        # The platform writes them down; what counts here comes in the next desired document.
        turn.publish(UpKind.REPLY, Reply(command_id=command.command_id, state="done"))
    elif command.kind == "restart":
        turn.state.restarting = command.command_id
        turn.do(Restart())
    return fleet


def connected(turn: Turn) -> None:
    """Say that the restart is done that a command has asked for."""
    command_id = turn.state.restarting
    if command_id is not None:
        turn.state.restarting = None
        turn.persist()
        turn.publish(UpKind.REPLY, Reply(command_id=command_id, state="done"))


def diagnosed(turn: Turn, command_id: UUID, result: dict[str, Any]) -> None:
    """Answer a command that only asks: for diagnostics, or for logs."""
    turn.publish(UpKind.REPLY, Reply(command_id=command_id, state="done", result=result))


def _reply_refused(turn: Turn, command: Command, why: str) -> None:
    reply = Reply(command_id=command.command_id, state="refused", result={"reason": why})
    turn.publish(UpKind.REPLY, reply)
