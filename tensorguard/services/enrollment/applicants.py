"""Applicants: what a device proves and says of itself when it wants to join."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.identity import key_sha256
from tensorguard.pki.keys import parse_x25519_public
from tensorguard.protocol.messages import EnrollRequest
from tensorguard.services.errors import BadFacts

FACTS_LIMIT_BYTES: Final = 16 * 1024
FACTS_DEPTH: Final = 8
NAME_LIMIT: Final = 200
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Applicant:
    """What a request proves and asks for, checked before anything is read or written."""

    token: str = field(repr=False)
    peer_ip: str
    public_key: ec.EllipticCurvePublicKey
    spki_sha256: bytes
    encryption_key: bytes
    name: str
    facts: dict[str, Any]


def check_request(request: EnrollRequest, *, peer_ip: str) -> Applicant:
    """Verify what needs no database: proof of possession, keys, name and facts.

    Raises: CsrRefused, BadKey, BadFacts.
    """
    public_key = parse_csr(request.csr)
    parse_x25519_public(request.encryption_key)
    name = parse_name(request.name)
    check_facts(request.facts)
    return Applicant(
        token=request.token,
        peer_ip=peer_ip,
        public_key=public_key,
        spki_sha256=key_sha256(public_key),
        encryption_key=request.encryption_key,
        name=name,
        facts=request.facts,
    )


def parse_name(name: str) -> str:
    """A device's name without the blanks around it. Raises: BadFacts."""
    stripped = name.strip()
    if not stripped or len(stripped) > NAME_LIMIT or _CONTROL.search(stripped):
        raise BadFacts("the device's name has to have 1 to 200 characters, none of them control")
    return stripped


def check_facts(facts: dict[str, Any]) -> None:
    """Refuse facts that the database cannot hold, or that are too many. Raises: BadFacts."""
    for depth, value in _walk(facts, 1):
        if depth > FACTS_DEPTH:
            raise BadFacts(f"the facts are nested deeper than {FACTS_DEPTH}")
        if isinstance(value, str) and _CONTROL.search(value):
            raise BadFacts("the facts have control characters")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadFacts("the facts have a number that is not finite")
        if isinstance(value, int) and abs(value) >= 2**53:
            raise BadFacts("the facts have an integer of 2**53 or more")
    try:
        size = len(json.dumps(facts, ensure_ascii=False).encode("utf-8"))
    except (
        TypeError,
        ValueError,
    ):  # half a surrogate pair is a ValueError
        raise BadFacts("the facts are not JSON") from None
    if size > FACTS_LIMIT_BYTES:
        raise BadFacts(f"the facts have {size} bytes; {FACTS_LIMIT_BYTES} are kept")


def _walk(value: object, depth: int) -> Iterator[tuple[int, object]]:
    yield depth, value
    if depth > FACTS_DEPTH:
        return
    children: list[object] = []
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        children = value
    for child in children:
        yield from _walk(child, depth + 1)
