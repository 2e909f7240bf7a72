"""The messages as JSON Schema: `python -m tensorguard.protocol.schemas docs/schemas`.

The schema of a signed message describes what is in the envelope, and `envelope` the envelope.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tensorguard.protocol import envelope, messages, recovery, topics
from tensorguard.protocol.join import Join

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    topics.UpKind.HEARTBEAT: messages.Heartbeat,
    topics.UpKind.EVENT: messages.Event,
    topics.UpKind.PROGRESS: messages.Progress,
    topics.UpKind.KEY_REQUEST: messages.KeyRequest,
    topics.UpKind.CSR: messages.CsrRequest,
    topics.UpKind.REPLY: messages.Reply,
    topics.UpKind.WILL: messages.Will,
    topics.DownKind.ACK: messages.Ack,
    topics.DownKind.CHECKPOINT: messages.Checkpoint,
    topics.DownKind.TRUST_VERSION: messages.TrustVersion,
    **{name: type_ for type_, name in envelope.SIGNED_KINDS.items()},
    "envelope": envelope.Envelope,
    "join": Join,
    "enroll-request": messages.EnrollRequest,
    "device-enroll-request": messages.DeviceEnrollRequest,
    "enrolled": messages.Enrolled,
    "enrollment-pending": messages.EnrollmentPending,
    "recovery-challenge": recovery.RecoveryChallenge,
    "recover-request": recovery.RecoverRequest,
    "recovery-pending": recovery.RecoveryPending,
    "recovered": recovery.Recovered,
    "enrollment-refused": messages.EnrollmentRefused,
}
"""Everything that an agent writes or reads, by the name of its schema."""


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document."""
    schema = msgspec.json.schema(DOCUMENTS[name])
    return {"$schema": DIALECT, "title": name, **schema}


def rendered(name: str) -> str:
    """Return a schema as the text of its file."""
    return msgspec.json.format(msgspec.json.encode(schema_of(name)), indent=2).decode() + "\n"


def write_all(folder: Path) -> None:
    """Write every schema, and remove those of documents that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        if old.stem not in DOCUMENTS:
            old.unlink()
    for name in DOCUMENTS:
        (folder / f"{name}.json").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
