"""The report as one page: no script, nothing from elsewhere, made to be printed.

Every text goes through ElementTree, which escapes it: nothing that a device or a person has written
becomes markup. The policy allows the one style sheet and nothing else, in the file too.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from api.compliance.report_views import (
    CheckpointView,
    ListedEntryView,
    ReportView,
    RevocationTimesView,
    SectionView,
)

_STYLE: Final = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'"
CONTENT_SECURITY_POLICY: Final = (
    f"{_POLICY}; form-action 'none'; frame-ancestors 'none'; sandbox allow-downloads"
)

_TITLES: Final = {
    "enrollment": "Enrolment and certificates",
    "revocations": "Revocations",
    "releases": "Packages, releases and deployments",
    "keys": "Use of keys",
    "violations": "Violations",
    "changes": "Changes of configuration and rights",
    "sign-ins": "Sign-ins",
    "other": "Everything else",
}
_NUMBERS: Final = (
    ("enrolled", "agents enrolled"),
    ("enrollments_refused", "enrolments refused"),
    ("moved_in", "agents moved in"),
    ("moved_away", "agents moved away"),
    ("certificates_renewed", "certificates renewed"),
    ("revoked", "agents revoked"),
    ("revocations_confirmed", "revocations confirmed"),
    ("revocations_partial", "confirmed in part"),
    ("packages", "packages uploaded"),
    ("packages_refused", "packages refused"),
    ("releases", "releases"),
    ("deployments_started", "deployments started"),
    ("deployments_ended", "deployments ended"),
    ("grants_issued", "model keys granted"),
    ("grants_denied", "model keys refused"),
    ("kek_rotations", "KEK rotations"),
    ("decryptions", "decryptions"),
    ("decryption_failures", "decryptions failed"),
    ("violations", "violations"),
    ("changes", "changes"),
    ("sign_ins", "sign-ins"),
    ("sign_ins_failed", "sign-ins failed"),
)
_SHORT: Final = 12
"""What is so short is not broken over lines."""
_PARTS: Final = {"fleet": "fleet", "platform": "whole platform", "left": "left this fleet"}


def head(report: ReportView) -> bytes:
    """Return the page up to its sections."""
    title = f"Compliance report: {report.fleet or 'every fleet'}"
    top = Element("header")
    _add(top, "h1", title)
    period = _add(top, "p", "From ")
    _add(period, "time", _moment(report.since)).tail = " until before "
    _add(period, "time", _moment(report.until)).tail = f". Made at {_moment(report.made_at)}."
    _numbers(top, report)
    start = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
    )
    named = Element("title")
    named.text = _text(title)
    return (
        start.encode()
        + _html(named)
        + f"<style>{_STYLE}</style></head><body>\n".encode()
        + _html(top)
    )


def _numbers(top: Element, report: ReportView) -> None:
    numbers = report.numbers
    told = f"{numbers.entries:,} entries of the ledger belong to the period"
    if numbers.unsigned:
        told += f"; {numbers.unsigned:,} more are not covered by a checkpoint yet, and left out"
    _add(top, "p", f"{told}.")
    if report.fleet is not None:
        _add(
            top,
            "p",
            "Entries that are of no fleet are of the whole platform: they concern this fleet too, "
            "and are counted and listed with it. An entry is of the fleet in which its agent was "
            "at that time.",
            kind="note",
        )
    listed = _add(top, "dl", kind="numbers")
    for name, label in _NUMBERS:
        pair = _add(listed, "div")
        _add(pair, "dt", label)
        _add(pair, "dd", f"{getattr(numbers, name):,}")


def sections(report: ReportView) -> Iterable[bytes]:
    """Yield the sections, one after the other."""
    for section in report.sections:
        yield _html(_section(report, section))
    yield _html(_running(report))
    yield _html(_deployments(report))


def _section(report: ReportView, section: SectionView) -> Element:
    found = Element("section")
    _add(found, "h2", _TITLES[section.section])
    if section.section == "revocations":
        _times(found, report.revocation_times)
        _receipts(found, section.listed)
    if section.section == "changes" and report.actors:
        _add(found, "h3", "By whom")
        actors = [(_who(one.kind, one.id, one.name), f"{one.entries:,}") for one in report.actors]
        _table(found, ("Who", "Entries"), actors, numbers={1})
    counts = [
        (one.type, one.outcome, _PARTS[one.part], f"{one.entries:,}", f"{one.times:,}")
        for one in section.types
        if one.entries
    ]
    _add(found, "h3", "Counts")
    _table(found, ("Type", "Outcome", "Of", "Entries", "Times"), counts, numbers={3, 4})
    if section.listed:
        _add(found, "h3", "Entries")
    _left_out(found, section)
    if section.listed:
        heads = ("Place", "When", "What", "To", "By", "Details", "Leaf hash")
        rows = [_entry(one) for one in section.listed]
        _table(found, heads, rows, kind="entries")
    return found


def _left_out(found: Element, section: SectionView) -> None:
    if not section.left_out:
        return
    if section.listed:
        told = f"The newest {len(section.listed):,} of {section.entries:,} are listed"
    else:
        told = f"None of these {section.entries:,} entries is listed"
    _add(
        found,
        "p",
        f"{told}; {section.left_out:,} are left out here and counted above. "
        "The last section says how to get them with their proofs.",
        kind="warning",
    )


def _entry(one: ListedEntryView) -> tuple[str, ...]:
    outcome = "" if one.outcome == "success" else f" ({one.outcome})"
    details = "too long to list here" if one.details is None else _details(one.details)
    if one.fleet is not None:
        details = f"fleet {one.fleet}; {details}" if details else f"fleet {one.fleet}"
    is_itself = (one.actor_kind, one.actor_id) == (one.subject_kind, one.subject_id)
    by = "itself" if is_itself else _who(one.actor_kind, one.actor_id, one.actor_name)
    to = _who(one.subject_kind, one.subject_id, one.subject_name)
    place = _place(one.epoch, one.leaf_index)
    return place, _moment(one.time), f"{one.type}{outcome}", to, by, details, one.leaf_hash


def _place(epoch: int, leaf_index: int) -> str:
    return f"{leaf_index:,}" if epoch == 1 else f"{epoch}/{leaf_index:,}"


def _times(found: Element, times: RevocationTimesView) -> None:
    if times.median_ms is None:
        return
    told = (
        f"Of {times.measured:,} complete receipts half came within {times.median_ms:,} ms of the "
        f"order, 99 % within {times.p99_ms:,} ms, the slowest after {times.longest_ms:,} ms."
    )
    if times.left_out:
        told += f" {times.left_out:,} older ones are not measured."
    _add(found, "p", told)


def _receipts(found: Element, listed: Sequence[ListedEntryView]) -> None:
    rows = []
    for one in listed:
        if one.type not in ("agent.revoked", "fleet.revoked"):
            continue
        receipt = one.receipt
        if receipt is None:
            told = ("no receipt", "", "", "")
        else:
            fronts = ", ".join(f"{name} {took:,} ms" for name, took in receipt.fronts_ms.items())
            slowest = "" if receipt.took_ms is None else f"{receipt.took_ms:,} ms"
            told = (receipt.state, slowest, fronts, _place(receipt.epoch, receipt.leaf_index))
        who = _who(one.subject_kind, one.subject_id, one.subject_name)
        reason = str((one.details or {}).get("reason", ""))
        rows.append((_place(one.epoch, one.leaf_index), who, _moment(one.time), reason, *told))
    if rows:
        _add(found, "h3", "Receipts: how long until every broker front had shut it out")
        heads = ("Place", "Who", "When", "Why", "Receipt", "Slowest", "Fronts", "Its place")
        _table(found, heads, rows)


def _running(report: ReportView) -> Element:
    found = Element("section")
    _add(found, "h2", "Where releases run")
    _add(found, "p", f"What active agents said that they run at {_moment(report.made_at)}.")
    rows = [
        (
            "none" if one.digest is None else f"{one.name or 'unknown'} {one.version or ''}",
            ", ".join(one.releases),
            one.digest or "",
            f"{one.agents:,}",
        )
        for one in report.running
    ]
    _table(found, ("Package", "Releases", "Digest", "Agents"), rows, numbers={3})
    return found


def _deployments(report: ReportView) -> Element:
    found = Element("section")
    _add(found, "h2", "Deployments that were there in the period")
    _add(found, "p", f"As they were at {_moment(report.made_at)}.")
    if report.deployments_left_out:
        told = f"{report.deployments_left_out:,} older deployments are not listed."
        _add(found, "p", told, kind="warning")
    rows = [
        (
            one.release,
            ", ".join(one.fleets),
            one.state,
            _moment(one.started_at) if one.started_at else "not started",
            _moment(one.finished_at) if one.finished_at else "",
            ", ".join(f"{many:,} {state}" for state, many in one.agents.items()),
            str(one.id),
        )
        for one in report.deployments
    ]
    heads = ("Release", "Fleets", "State", "Started", "Ended", "Agents", "Id")
    _table(found, heads, rows)
    return found


def integrity(report: ReportView) -> bytes:
    """Return how the report can be checked: what the ledger has signed, and what to do with it."""
    found = Element("section")
    _add(found, "h2", "How to check this report")
    _add(
        found,
        "p",
        "Each entry stands at its place in a tree of hashes (RFC 9162) whose root is signed. The "
        "files below hold the exact bytes of every entry that is listed here, and the hashes that "
        "lead from it to the root. Save them and run, on a machine of yours:",
    )
    for one in report.checkpoints:
        name = evidence_name(report, one.epoch)
        _add(found, "pre", f"tensorguard ledger verify {name} --key VERIFIER-KEY")
    _add(
        found,
        "p",
        "It answers “ok”, or names the entry that is not as it was signed. The leaf hashes above "
        "are SHA-256 over a zero byte and the entry's bytes. Use a verifier key that you took from "
        "the platform before and kept; those below are for comparison. docs/evidence.md has the "
        "verifier, one file that needs nothing of the platform.",
    )
    for one in report.checkpoints:
        _checkpoint(found, one)
    _rest(found, report)
    _add(found, "h3", "The entries listed here, with their proofs")
    return _html(found)


def _checkpoint(found: Element, one: CheckpointView) -> None:
    _add(found, "h3", f"Epoch {one.epoch}: {one.tree_size:,} entries")
    _add(found, "p", f"Signed at {_moment(one.signed_at)}. Root {one.root_hash}. Signed note:")
    _add(found, "pre", one.note)
    _add(found, "p", "Verifier keys:")
    _add(found, "pre", "\n".join(one.keys))


def _rest(found: Element, report: ReportView) -> None:
    _add(found, "h3", "What is not listed")
    _add(
        found,
        "p",
        "All entries, with their proofs, as a stream of any length; start and end are places in "
        "the ledger, type and subject narrow it further:",
    )
    fleet = f"&fleet={report.fleet}" if report.fleet else ""
    for one in report.checkpoints:
        _add(
            found,
            "pre",
            f'curl -H "Authorization: Bearer $KEY" -o all-{one.epoch}.ndjson.zst \\\n'
            f'  "https://PLATFORM/api/v1/ledger/export?epoch={one.epoch}{fleet}"',
        )


def attachment(report: ReportView, epoch: int, entries: int) -> tuple[bytes, bytes]:
    """Return what stands before and after the base64 of the entries with their proofs."""
    link = Element("a", {"download": evidence_name(report, epoch), "href": "data:application/zstd"})
    link.text = f"{evidence_name(report, epoch)} ({entries:,} entries)"
    paragraph = Element("p")
    paragraph.append(link)
    before, mark, after = _html(paragraph).partition(b"data:application/zstd")
    return before + mark + b";base64,", after


def tail() -> bytes:
    """Return the end of the page."""
    return b"</body></html>\n"


def evidence_name(report: ReportView, epoch: int) -> str:
    """Return the name of the file with an epoch's entries."""
    return f"{file_name(report)}-evidence-{epoch}.ndjson.zst"


def file_name(report: ReportView) -> str:
    """Return what a report is called as a file, without its ending."""
    last = f"{report.since:%Y-%m-%d}-to-{report.until:%Y-%m-%d}"
    return f"compliance-{report.fleet or 'every-fleet'}-{last}"


def _table(
    into: Element,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Iterable[int] = (),
    kind: str = "",
) -> None:
    if not rows:
        _add(into, "p", "None.")
        return
    right = set(numbers)
    table = _add(into, "table", kind=kind)
    top = SubElement(SubElement(table, "thead"), "tr")
    for place, text in enumerate(heads):
        _add(top, "th", text, kind="number" if place in right else "").set("scope", "col")
    body = SubElement(table, "tbody")
    for row in rows:
        line = SubElement(body, "tr")
        for place, text in enumerate(row):
            short = "short" if len(text) <= _SHORT else ""
            cell = _add(line, "td", kind="number" if place in right else short)
            # Each its own island: a name may turn the direction of writing round.
            _add(cell, "bdi", text)


def _add(into: Element, tag: str, text: str = "", *, kind: str = "") -> Element:
    found = SubElement(into, tag, {"class": kind} if kind else {})
    if text:
        found.text = _text(text)
    return found


def _html(element: Element) -> bytes:
    return tostring(element, encoding="unicode", method="html").encode() + b"\n"


def _text(text: str) -> str:
    """A text that a page can hold: controls that no page may have are shown as what they are."""
    return "".join(
        one if one in "\n\t" or (ord(one) >= 32 and not 127 <= ord(one) < 160) else "\ufffd"
        for one in text.encode(errors="replace").decode()
    )


def _who(kind: str, id: str, name: str | None) -> str:
    if kind == "system":
        return "the platform" if id == "platform" else f"the platform ({id})"
    return f"{kind} {id}" if name is None else f"{name} ({kind} {id})"


def _details(details: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {_value(value)}" for name, value in details.items())


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
