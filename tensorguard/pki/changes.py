"""What a trust bundle would change, in words: for whoever is asked to sign it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from msgspec import UnsetType

from tensorguard.pki.bundle import KEY_ROLES
from tensorguard.pki.identity import spki_sha256
from tensorguard.protocol.messages import TrustBundle, TrustedKey, TrustedPublisher

T = TypeVar("T")


def describe_changes(current: TrustBundle, following: TrustBundle) -> list[str]:
    """One line for each thing that `following` changes, and for what stays of its root keys."""
    return [
        f"bundle {following.version} of {following.trust_domain}, after bundle {current.version}",
        f"made {_day(following.issued_at)}, ends {_day(following.expires_at)}",
        *_roots(current, following),
        *_cas(current, following),
        *_online_keys(current, following),
        *_publishers(current, following),
    ]


def describe_differences(expected: TrustBundle, following: TrustBundle) -> list[str]:
    """What of a bundle's CAs, online keys and publishers is not as expected; nothing of roots."""
    return [
        *_cas(expected, following),
        *_online_keys(expected, following),
        *_publishers(expected, following),
    ]


def _roots(current: TrustBundle, following: TrustBundle) -> Iterator[str]:
    old, new = ({key.kid: key for key in one.keys.root} for one in (current, following))
    yield from _differences("root key", old, new, _until)
    yield from (f"keeps root key {kid}" for kid in new if kid in old)
    before, after = current.root_threshold, following.root_threshold
    if before != after:
        yield f"CHANGES the threshold: {before} → {after} of {len(new)} root keys have to sign"
    else:
        yield f"keeps the threshold: {after} of {len(new)} root keys have to sign"


def _cas(current: TrustBundle, following: TrustBundle) -> Iterator[str]:
    old, new = _certificates(current.ca), _certificates(following.ca)
    yield from _differences(
        "CA", old, new, lambda ca: f"valid {_day(ca.not_valid_before_utc)} to"
        f" {_day(ca.not_valid_after_utc)}",
    )  # fmt: skip


def _online_keys(current: TrustBundle, following: TrustBundle) -> Iterator[str]:
    for role in KEY_ROLES:
        keys: list[TrustedKey] = getattr(current.keys, role)
        after: list[TrustedKey] = getattr(following.keys, role)
        old, new = ({key.kid: key for key in one} for one in (keys, after))
        yield from _differences(f"{role} key", old, new, _until)


def _publishers(current: TrustBundle, following: TrustBundle) -> Iterator[str]:
    old, new = ({one.kid: one for one in bundle.publishers} for bundle in (current, following))
    yield from _differences("publisher", old, new, _may_sign)


def _differences(
    what: str, old: Mapping[str, T], new: Mapping[str, T], about: Callable[[T], str]
) -> Iterator[str]:
    for kid, one in new.items():
        if kid not in old:
            yield f"ADDS {what} {kid} ({about(one)})"
        elif one != old[kid]:
            yield f"CHANGES {what} {kid} ({about(old[kid])} → {about(one)})"
    for kid, one in old.items():
        if kid not in new:
            yield f"REMOVES {what} {kid} ({about(one)})"


def _certificates(pems: Sequence[str]) -> dict[str, x509.Certificate]:
    loaded = [x509.load_pem_x509_certificate(pem.encode()) for pem in pems]
    return {spki_sha256(one): one for one in loaded}


def _until(key: TrustedKey) -> str:
    return f"until {_day(key.not_after)}"


def _may_sign(publisher: TrustedPublisher) -> str:
    begin = publisher.not_before
    since = "" if isinstance(begin, UnsetType) else f" from {_day(begin)}"
    return f"may sign {', '.join(publisher.names)}{since} until {_day(publisher.not_after)}"


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
