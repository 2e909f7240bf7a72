"""Ledger entries as events of the Open Cybersecurity Schema Framework, https://schema.ocsf.io.

Each carries the exact bytes that were hashed (`raw_data`) and its place in the ledger
(`unmapped.integrity`): with the platform's verifier key and a proof whoever receives it can check
that it stands in the ledger, and stood there when it was sent.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from tensorguard.siem.item import Item

OCSF_VERSION: Final = "1.8.0"
VENDOR: Final = "TensorGuard"
PRODUCT: Final = "TensorGuard Management Platform"
TEST_TYPE: Final = "sink.test"
_BASE: Final = (0, 0, "Base Event")
_AUTHENTICATION: Final = (3, 3002, "Authentication")
_FINDING: Final = (2, 2004, "Detection Finding")
_ENTITY: Final = (3, 3004, "Entity Management")
_OTHER: Final = 99
_INFORMATIONAL, _MEDIUM, _HIGH, _CRITICAL = 1, 3, 4, 5
_SEVERITIES: Final = {1: "Informational", 3: "Medium", 4: "High", 5: "Critical"}
_GRAVE: Final = {
    "ledger.fork-seen": _CRITICAL,
    "ledger.epoch-began": _CRITICAL,
    "agent.revocation-partial": _HIGH,
    "fleet.revocation-partial": _HIGH,
    "agent.revoked": _MEDIUM,
    "fleet.revoked": _HIGH,
    "kek.unusable": _HIGH,
    "kek.version-destroyed": _MEDIUM,
    "ledger.subject-erased": _MEDIUM,
}
_LOGONS: Final = {"session.signed-in": 1, "session.failed": 1, "session.signed-out": 2}
# The last word of an event's type, as an activity of the class Entity Management.
_ACTIVITIES: Final = {
    "Create": (1, "created added registered issued uploaded initialised published imported"),
    "Read": (2, "private-read exported"),
    "Update": (3, "changed config-changed tags-changed role-changed rotated renewed replaced"),
    "Delete": (4, "deleted removed destroyed retired version-destroyed subject-erased"),
    "Move": (5, "moved move-ordered"),
    "Enroll": (6, "enrolled approved recovered"),
    "Unenroll": (7, "revoked released"),
    "Enable": (8, "enabled version-enabled"),
    "Disable": (9, "disabled version-disabled"),
    "Suspend": (12, "paused stopped"),
    "Resume": (13, "resumed"),
}
_ACTIVITY_OF: Final = {
    word: (number, caption)
    for caption, (number, words) in _ACTIVITIES.items()
    for word in words.split()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An entry in its place: the exact bytes, and a signed checkpoint of the tree it stands in.

    `private` are its private fields in clear, for a sink that was allowed to have them.
    """

    epoch: int
    leaf_index: int
    leaf_hash: bytes
    entry: bytes
    time: datetime
    type: str
    checkpoint: str
    private: Mapping[str, object] | None = None


def to_item(placed: Placed, *, trust_domain: str) -> Item:
    """Return an entry as it is sent. One whose bytes are not JSON, since it was damaged, too."""
    integrity = {
        "epoch": placed.epoch,
        "leaf_index": placed.leaf_index,
        "leaf_hash": placed.leaf_hash.hex(),
        "checkpoint": placed.checkpoint,
    }
    try:
        entry = msgspec.json.decode(placed.entry, type=dict[str, Any])
        document = _document(entry, placed, trust_domain)
        document["raw_data"] = placed.entry.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        document = _damaged(placed, trust_domain)
        document["raw_data"] = base64.b64encode(placed.entry).decode()
    document["unmapped"]["integrity"] = integrity
    if placed.private is not None:
        document["unmapped"]["private"] = dict(placed.private)
    return Item(
        epoch=placed.epoch,
        leaf_index=placed.leaf_index,
        time=placed.time,
        type=placed.type,
        severity_id=document["severity_id"],
        message=document["message"],
        document=msgspec.json.encode(document),
    )


def labelled_item(*, sink: str, trust_domain: str, now: datetime) -> Item:
    """Return the labelled event that a test sends: of no entry, and marked as that."""
    message = "TEST: an event from TensorGuard, sent to try out a sink; no entry of the ledger"
    document = _classified(_ENTITY, _OTHER, "Test", _INFORMATIONAL) | {
        "time": _ms(now),
        "message": message,
        "status_id": 1,
        "status": "Success",
        "metadata": _metadata(TEST_TYPE, trust_domain, now) | {"labels": ["test"]},
        "entity": {"uid": sink, "type_id": _OTHER, "type": "sink"},
        "unmapped": {"test": True},
    }
    return Item(
        epoch=0,
        leaf_index=0,
        time=now,
        type=TEST_TYPE,
        severity_id=_INFORMATIONAL,
        message=message,
        document=msgspec.json.encode(document),
    )


def shortened(item: Item, most_bytes: int) -> bytes:
    """Return an item's document if it is no larger; else without what makes it large, and marked.

    What is left says which entry it is, and the SHA-256 of what was left out.
    """
    if len(item.document) <= most_bytes:
        return item.document
    document = msgspec.json.decode(item.document, type=dict[str, Any])
    raw = str(document.pop("raw_data", ""))
    document["metadata"] = document["metadata"] | {
        "is_truncated": True,
        "untruncated_size": len(item.document),
    }
    unmapped = document["unmapped"]
    unmapped["raw_data_sha256"] = hashlib.sha256(raw.encode()).hexdigest()
    unmapped["left_out"] = ["raw_data"]
    for name in ("details", "private"):
        if len(msgspec.json.encode(document)) > most_bytes and unmapped.pop(name, None):
            unmapped["left_out"].append(name)
    document["message"] = document["message"][:500]
    return msgspec.json.encode(document)


def _document(entry: Mapping[str, Any], placed: Placed, trust_domain: str) -> dict[str, Any]:
    kind, outcome, subject = str(entry["type"]), entry["outcome"], entry["subject"]
    is_success = outcome == "success"
    severity = _GRAVE.get(kind, _INFORMATIONAL if is_success else _MEDIUM)
    word = kind.rpartition(".")[2]
    unmapped: dict[str, Any] = {
        "fleet": entry["fleet"],
        "outcome": outcome,
        "subject": subject,
        "details": entry["details"],
    }
    if kind in _LOGONS:
        made = _classified(_AUTHENTICATION, _LOGONS[kind], None, severity)
        made["user"] = _user(subject["kind"], subject["id"])
        made["service"] = {"name": PRODUCT}
    elif not is_success:
        made = _classified(_FINDING, 1, "Create", severity)
        made["finding_info"] = {
            "uid": entry["id"],
            "title": kind,
            "types": [kind],
            "created_time": _ms(placed.time),
        }
    else:
        activity, caption = _ACTIVITY_OF.get(word, (_OTHER, word))
        made = _classified(_ENTITY, activity, caption, severity)
        made["entity"] = {"uid": subject["id"], "type_id": _OTHER, "type": subject["kind"]}
    if made["class_uid"] != _FINDING[1]:
        made["status_id"], made["status"] = (1, "Success") if is_success else (2, "Failure")
        made["status_code"] = outcome
    actor = entry["actor"]
    made |= {
        "time": _ms(placed.time),
        "message": f"{kind}: {subject['kind']} {subject['id']} by {actor['kind']} {actor['id']}",
        "metadata": _metadata(kind, trust_domain, placed.time)
        | {"uid": entry["id"], "sequence": placed.leaf_index, "original_time": entry["time"]},
        "actor": _actor(actor["kind"], actor["id"]),
        "unmapped": unmapped,
    }
    if made["class_uid"] == _FINDING[1]:
        made["metadata"]["profiles"] = ["host"]  # which is where a finding has its actor
    return made


def _damaged(placed: Placed, trust_domain: str) -> dict[str, Any]:
    return _classified(_BASE, _OTHER, "Damaged", _CRITICAL) | {
        "time": _ms(placed.time),
        "message": f"the ledger's entry {placed.leaf_index} is damaged: its bytes are not JSON",
        "metadata": _metadata(placed.type, trust_domain, placed.time)
        | {"sequence": placed.leaf_index},
        "unmapped": {},
    }


def _classified(
    kind: tuple[int, int, str], activity: int, name: str | None, severity: int
) -> dict[str, Any]:
    category, class_uid, class_name = kind
    named = {} if name is None else {"activity_name": name}
    return named | {
        "category_uid": category,
        "class_uid": class_uid,
        "class_name": class_name,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
    }


def _metadata(kind: str, trust_domain: str, moment: datetime) -> dict[str, Any]:
    return {
        "version": OCSF_VERSION,
        "product": {"name": PRODUCT, "vendor_name": VENDOR, "version": _version()},
        "log_name": "ledger",
        "log_provider": trust_domain,
        "event_code": kind,
        "logged_time": _ms(moment),
    }


def _actor(kind: str, id: str) -> dict[str, Any]:
    if kind in ("user", "api-key"):
        return {"user": _user(kind, id)}
    return {"app_name": kind, "app_uid": id}


def _user(kind: str, id: str) -> dict[str, Any]:
    return {"uid": id, "type_id": 1 if kind == "user" else _OTHER, "type": kind}


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return version("tensorguard-platform")
    except PackageNotFoundError:  # run from its folder
        return "0.1.0"
