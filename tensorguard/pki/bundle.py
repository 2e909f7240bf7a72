"""The trust bundle: which keys and CA certificates an agent or a service believes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Self

from cryptography import x509
from msgspec import UnsetType

from tensorguard.pki.errors import (
    BadBundle,
    BundleBelowThreshold,
    BundleExpired,
    BundleNotNext,
    PkiError,
)
from tensorguard.pki.identity import subject_key_id
from tensorguard.pki.issuer import load_ca_certificate
from tensorguard.pki.keys import Ed25519Verifier, kid_of
from tensorguard.protocol import codec, envelope
from tensorguard.protocol.errors import BadEnvelope, BadMessage, WrongKind
from tensorguard.protocol.messages import TrustBundle, TrustedKey, TrustedKeys, TrustedPublisher

# Over how long agents spread their move to a new CA, where the bundle does not say.
RENEW_WITHIN_S: Final = 3600
KeyRole = Literal["desired", "grant", "command", "config", "ledger"]
KEY_ROLES: Final[tuple[KeyRole, ...]] = ("desired", "grant", "command", "config", "ledger")
# Which role's keys sign a kind of message. A certificate is, like a grant, the platform's answer to
# a request of one agent, so that the same key answers both.
ROLE_OF_KIND: Final[Mapping[str, KeyRole]] = {
    "desired": "desired",
    "grant": "grant",
    "certificate": "grant",
    "command": "command",
    "config": "config",
    "checkpoint": "ledger",
    "ledger": "ledger",
}


@dataclass(frozen=True, slots=True)
class TrustStore:
    """A trust bundle that was verified, and the keys in it, ready for use.

    `envelope` is the bundle as it was signed: persist it before use, and open it with `open_first`
    after a restart.
    """

    bundle: TrustBundle
    envelope: bytes = field(repr=False)
    cas: tuple[x509.Certificate, ...] = field(repr=False)
    _verifiers: Mapping[str, Ed25519Verifier] = field(repr=False, compare=False)

    @classmethod
    def open_first(cls, raw: bytes, *, trust_domain: str | None = None) -> Self:
        """Believe the first bundle that a device gets, because of the connection it came over.

        It must be consistent in itself: signed by the threshold of its own root keys.
        Raises: BundleRefused, EnvelopeRefused, MessageTooLarge.
        """
        opened = _open(raw)
        bundle = opened.bundle
        if trust_domain is not None and bundle.trust_domain != trust_domain:
            raise BadBundle(f"the bundle is of trust domain {bundle.trust_domain[:80]!r}")
        # Root keys' not_after counts when the next bundle is accepted. This one may have been
        # believed long ago, and is read back now.
        _quorum(opened.envelope, bundle.keys.root, bundle.root_threshold, "its own").check()
        return cls(bundle, raw, _cas(bundle), _verifiers(bundle))

    @property
    def version(self) -> int:
        """The bundle's version, which only rises."""
        return self.bundle.version

    @property
    def trust_domain(self) -> str:
        """The trust domain of everything in the bundle."""
        return self.bundle.trust_domain

    @property
    def newest_ca(self) -> x509.Certificate:
        """The CA whose certificate agents should hold: the one that is valid from the latest on."""
        return max(self.cas, key=lambda ca: (ca.not_valid_before_utc, subject_key_id(ca)))

    @property
    def renew_within_s(self) -> int:
        """Over how long agents spread the renewals by which they leave an older CA."""
        given = self.bundle.renew_within_s
        return RENEW_WITHIN_S if isinstance(given, UnsetType) else given

    def keys_for(self, kind: str, now: datetime) -> Mapping[str, Ed25519Verifier]:
        """The public keys by kid that may sign messages of `kind` at `now`; none for another kind.

        Raises: BundleExpired.
        """
        self._check_not_expired(now)
        role = ROLE_OF_KIND.get(kind)
        if role is None:
            return {}
        keys: list[TrustedKey] = getattr(self.bundle.keys, role)
        return {key.kid: self._verifiers[key.kid] for key in keys if now < key.not_after}

    def publishers(self, now: datetime) -> Sequence[TrustedPublisher]:
        """The keys that may sign packages, each within its own window: whoever uses one looks.

        Raises: BundleExpired.
        """
        self._check_not_expired(now)
        return self.bundle.publishers

    def _check_not_expired(self, now: datetime) -> None:
        if now >= self.bundle.expires_at:
            raise BundleExpired(
                f"trust bundle {self.version} expired at {self.bundle.expires_at.isoformat()}"
            )


def accept_next(current: TrustStore, raw: bytes, now: datetime) -> TrustStore:
    """Believe the bundle that follows `current`: version + 1, same trust domain, signed by the
    threshold of the current *and* of its own root keys (TUF specification section 5.3.4).

    An expired one is accepted on the way to a newer one (TUF 5.3.10): its keys then serve nothing.
    Raises: BundleRefused, EnvelopeRefused, MessageTooLarge.
    """
    opened = _open(raw)
    bundle = opened.bundle
    if bundle.trust_domain != current.trust_domain:
        raise BadBundle(f"the bundle is of trust domain {bundle.trust_domain[:80]!r}")
    if bundle.version != current.version + 1:
        raise BundleNotNext(f"bundle {bundle.version} cannot follow bundle {current.version}")
    for quorum in _quorums(current.bundle, opened, now):
        quorum.check()
    return TrustStore(bundle, raw, _cas(bundle), _verifiers(bundle))


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who of a bundle's root keys has signed, and who may still; lists of key ids."""

    whose: str
    threshold: int
    signed: Sequence[str]
    unsigned: Sequence[str]

    @property
    def missing(self) -> int:
        """How many signatures are missing."""
        return max(0, self.threshold - len(self.signed))

    def check(self) -> None:
        """Raises: BundleBelowThreshold, which names the keys that have not signed."""
        if self.missing:
            waiting = ", ".join(f"{kid[:16]}…" for kid in self.unsigned) or "no key that is left"
            raise BundleBelowThreshold(
                f"the bundle has {len(self.signed)} of the {self.threshold} signatures by"
                f" {self.whose} root keys; {self.missing} more of: {waiting}"
            )


def count_signatures(current: TrustBundle, raw: bytes, now: datetime) -> tuple[Quorum, Quorum]:
    """Who has signed the bundle `raw` of the root keys of `current`, and of its own.

    Raises: BundleRefused, EnvelopeRefused, MessageTooLarge.
    """
    return _quorums(current, _open(raw), now)


def read_bundle(raw: bytes) -> TrustBundle:
    """What a bundle says, consistent but not believed: whoever wrote it may not have been asked.

    Raises: BundleRefused, EnvelopeRefused, MessageTooLarge.
    """
    bundle = _open(raw).bundle
    _cas(bundle)
    return bundle


def trusted_key(public_raw: bytes, not_after: datetime) -> TrustedKey:
    """A bundle's entry for a public key."""
    return TrustedKey(kid=kid_of(public_raw), public=public_raw, not_after=not_after)


def sign_bundle(bundle: TrustBundle, roots: Sequence[envelope.Signer]) -> bytes:
    """The bundle as a DSSE envelope signed by `roots`; checked as a receiver would.

    Raises: BundleRefused.
    """
    raw = envelope.sign(bundle, roots)
    TrustStore.open_first(raw)
    return raw


@dataclass(frozen=True, slots=True)
class _Opened:
    envelope: envelope.Envelope
    bundle: TrustBundle


def _open(raw: bytes) -> _Opened:
    opened = envelope.parse(raw)
    if opened.payload_type != envelope.payload_type("trust"):
        raise WrongKind(f"payload type {opened.payload_type[:100]!r} is not that of a trust bundle")
    try:
        bundle = codec.decode(TrustBundle, opened.payload)
    except BadMessage as error:
        raise BadEnvelope(error.message) from None
    _check_consistent(bundle)
    return _Opened(opened, bundle)


def _check_consistent(bundle: TrustBundle) -> None:
    keys = bundle.keys
    root_kids = {key.kid for key in keys.root}
    publics = [(key.kid, key.public) for key in _every_key(keys)]
    publics += [(publisher.kid, publisher.public) for publisher in bundle.publishers]
    for kid, public in publics:
        if kid_of(public) != kid:
            raise BadBundle(f"key id {kid[:16]}… is not the SHA-256 of its public key")
    if any(key.kid in root_kids for key in _online_keys(keys)):
        raise BadBundle("a root key serves as an online key as well")
    if len(root_kids) != len(keys.root) or bundle.root_threshold > len(root_kids):
        raise BadBundle(f"{len(root_kids)} root keys cannot reach {bundle.root_threshold}")
    if len({one.kid for one in bundle.publishers}) != len(bundle.publishers):
        raise BadBundle("the bundle names a publisher twice")
    if not bundle.ca:
        raise BadBundle("the bundle has no CA certificate")


def _online_keys(keys: TrustedKeys) -> list[TrustedKey]:
    return [*keys.desired, *keys.grant, *keys.command, *keys.config, *keys.ledger]


def _every_key(keys: TrustedKeys) -> list[TrustedKey]:
    return [*keys.root, *_online_keys(keys)]


def _quorums(current: TrustBundle, opened: _Opened, now: datetime) -> tuple[Quorum, Quorum]:
    known = [key for key in current.keys.root if now < key.not_after]
    own = [key for key in opened.bundle.keys.root if now < key.not_after]
    return (
        _quorum(opened.envelope, known, current.root_threshold, "the current"),
        _quorum(opened.envelope, own, opened.bundle.root_threshold, "its own"),
    )


def _quorum(
    opened: envelope.Envelope, roots: Sequence[TrustedKey], threshold: int, whose: str
) -> Quorum:
    verifiers = {key.kid: Ed25519Verifier(key.public) for key in roots}
    good = envelope.valid_signers(opened, verifiers)
    return Quorum(
        whose,
        threshold,
        signed=[kid for kid in verifiers if kid in good],
        unsigned=[kid for kid in verifiers if kid not in good],
    )


def _verifiers(bundle: TrustBundle) -> Mapping[str, Ed25519Verifier]:
    return {key.kid: Ed25519Verifier(key.public) for key in _every_key(bundle.keys)}


def _cas(bundle: TrustBundle) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(load_ca_certificate(pem, bundle.trust_domain) for pem in bundle.ca)
    except PkiError as error:
        raise BadBundle(f"a CA certificate in the bundle is bad: {error.message}") from None
