from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UnsetType

from tensorguard.pki.bundle import TrustStore, accept_next, sign_bundle
from tensorguard.pki.errors import (
    BadBundle,
    BundleBelowThreshold,
    BundleExpired,
    BundleNotNext,
)
from tensorguard.pki.keys import Ed25519Signer, kid_of
from tensorguard.protocol import envelope
from tensorguard.protocol.errors import EnvelopeRefused, ProtocolError
from tensorguard.protocol.messages import FleetConfig, TrustedPublisher
from tests.unit.pki.builders import NOW, TRUST_DOMAIN, Roots

replace = msgspec.structs.replace


@pytest.fixture
def roots() -> Roots:
    return Roots(count=3, threshold=2)


def first(roots: Roots) -> TrustStore:
    return TrustStore.open_first(envelope.sign(roots.bundle(), roots.signers[:2]))


def test_a_first_bundle_signed_by_the_threshold_of_its_own_roots_is_believed(roots: Roots) -> None:
    store = first(roots)
    assert store.version == 1
    assert store.trust_domain == TRUST_DOMAIN
    assert store.cas == (roots.ca.certificate,)
    assert TrustStore.open_first(store.envelope, trust_domain=TRUST_DOMAIN) == store


def test_a_message_signed_with_the_key_of_its_kind_opens(roots: Roots) -> None:
    config = FleetConfig(
        trust_domain=TRUST_DOMAIN,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=1),
        fleet="f",
        epoch=1,
        revision=1,
        heartbeat_interval_s=10,
    )
    raw = envelope.sign(config, [roots.online])
    keys = first(roots).keys_for("config", NOW)
    opened = envelope.open_signed(
        raw, FleetConfig, keys=keys, trust_domain=TRUST_DOMAIN, now=NOW, fleet="f"
    )
    assert opened == config


def test_root_keys_may_sign_no_message_and_unknown_kinds_have_no_keys(roots: Roots) -> None:
    store = first(roots)
    kids = {signer.kid for signer in roots.signers}
    for kind in ("desired", "grant", "certificate", "command", "config", "ledger"):
        assert set(store.keys_for(kind, NOW)) == {roots.online.kid}
        assert not kids & set(store.keys_for(kind, NOW))
    assert store.keys_for("root", NOW) == {}
    assert store.keys_for("trust", NOW) == {}


def test_a_key_past_its_not_after_is_not_believed(roots: Roots) -> None:
    bundle = roots.bundle(key_lifetime=timedelta(days=1))
    store = TrustStore.open_first(envelope.sign(bundle, roots.signers))
    assert store.keys_for("desired", NOW + timedelta(hours=23))
    assert store.keys_for("desired", NOW + timedelta(days=1)) == {}


def test_nothing_of_an_expired_bundle_is_believed(roots: Roots) -> None:
    bundle = roots.bundle(lifetime=timedelta(days=1))
    store = TrustStore.open_first(envelope.sign(bundle, roots.signers))
    with pytest.raises(BundleExpired):
        store.keys_for("desired", NOW + timedelta(days=1))
    with pytest.raises(BundleExpired):
        store.publishers(NOW + timedelta(days=1))


def test_publishers_are_given_with_their_windows(roots: Roots) -> None:
    public = Ed25519Signer.generate().public_raw
    known = TrustedPublisher(
        kid=kid_of(public), alg="ed25519", public=public, names=["*"], not_after=NOW
    )
    later = replace(known, not_before=NOW - timedelta(days=1))
    for publisher in (known, later):
        bundle = roots.bundle(publishers=[publisher])
        store = TrustStore.open_first(envelope.sign(bundle, roots.signers))
        assert list(store.publishers(NOW + timedelta(days=2))) == [publisher]
    assert isinstance(known.not_before, UnsetType)


def test_a_publisher_named_twice_makes_a_bad_bundle(roots: Roots) -> None:
    public = Ed25519Signer.generate().public_raw
    known = TrustedPublisher(
        kid=kid_of(public), alg="ed25519", public=public, names=["a"], not_after=NOW
    )
    bundle = roots.bundle(publishers=[known, replace(known, names=["b"])])
    with pytest.raises(BadBundle):
        TrustStore.open_first(envelope.sign(bundle, roots.signers))


def test_one_signature_below_the_threshold_is_refused_though_given_twice(roots: Roots) -> None:
    one = roots.signers[0]
    for signers in ([one], [one, one], [one, Ed25519Signer.generate()]):
        with pytest.raises(BundleBelowThreshold):
            TrustStore.open_first(envelope.sign(roots.bundle(), signers))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda roots, b: replace(b, ca=[]),
        lambda roots, b: replace(b, ca=["no certificate"]),
        lambda roots, b: replace(b, trust_domain="other.example"),
        lambda roots, b: replace(b, root_threshold=4),
        lambda roots, b: replace(b, keys=replace(b.keys, root=[b.keys.root[0]] * 3)),
        lambda roots, b: replace(b, keys=replace(b.keys, grant=b.keys.root)),
        lambda roots, b: replace(
            b, keys=replace(b.keys, grant=[replace(b.keys.grant[0], kid="0" * 64)])
        ),
        lambda roots, b: replace(
            b,
            publishers=[
                TrustedPublisher(
                    kid="0" * 64, alg="ed25519", public=bytes(32), names=["*"], not_after=NOW
                )
            ],
        ),
    ],
    ids=[
        *("no-ca", "bad-ca", "foreign-ca", "threshold", "twice-the-same-root"),
        *("root-as-online", "wrong-kid", "wrong-publisher-kid"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused_though_signed(
    roots: Roots, spoil: object
) -> None:
    bundle = spoil(roots, roots.bundle())  # type: ignore[operator]  # the lambdas above
    with pytest.raises(BadBundle):
        TrustStore.open_first(envelope.sign(bundle, roots.signers))


def test_a_bundle_of_another_trust_domain_than_expected_is_refused(roots: Roots) -> None:
    raw = envelope.sign(roots.bundle(), roots.signers)
    with pytest.raises(BadBundle):
        TrustStore.open_first(raw, trust_domain="other.example")


def test_another_kind_of_message_is_no_bundle(roots: Roots) -> None:
    config = FleetConfig(
        trust_domain=TRUST_DOMAIN,
        issued_at=NOW,
        expires_at=NOW,
        fleet="f",
        epoch=1,
        revision=1,
        heartbeat_interval_s=10,
    )
    with pytest.raises(EnvelopeRefused):
        TrustStore.open_first(envelope.sign(config, roots.signers))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_envelope_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        TrustStore.open_first(raw)


def test_the_next_bundle_signed_by_old_and_new_roots_is_accepted(roots: Roots) -> None:
    old, new = first(roots), Roots(count=2, threshold=2)
    signers = [*roots.signers[1:], *new.signers]
    store = accept_next(old, envelope.sign(new.bundle(version=2), signers), NOW)
    assert store.version == 2
    assert store.cas == (new.ca.certificate,)


def test_new_root_keys_alone_cannot_take_over(roots: Roots) -> None:
    new = Roots(count=2, threshold=2)
    with pytest.raises(BundleBelowThreshold, match="current"):
        accept_next(first(roots), envelope.sign(new.bundle(version=2), new.signers), NOW)


def test_old_root_keys_alone_cannot_name_roots_that_nobody_holds(roots: Roots) -> None:
    new = Roots(count=2, threshold=2)
    with pytest.raises(BundleBelowThreshold, match="own"):
        accept_next(first(roots), envelope.sign(new.bundle(version=2), roots.signers), NOW)


def test_a_lower_threshold_needs_the_old_threshold_once_more(roots: Roots) -> None:
    lowered = replace(roots.bundle(version=2), root_threshold=1)
    with pytest.raises(BundleBelowThreshold):
        accept_next(first(roots), envelope.sign(lowered, roots.signers[:1]), NOW)
    assert accept_next(first(roots), envelope.sign(lowered, roots.signers[:2]), NOW).version == 2


@pytest.mark.parametrize("version", [1, 3, 100])
def test_a_bundle_that_skips_repeats_or_goes_down_is_refused(roots: Roots, version: int) -> None:
    with pytest.raises(BundleNotNext):
        accept_next(first(roots), envelope.sign(roots.bundle(version=version), roots.signers), NOW)


def test_a_root_key_past_its_not_after_counts_no_more(roots: Roots) -> None:
    bundle = roots.bundle(root_lifetime=timedelta(days=1))
    old = TrustStore.open_first(envelope.sign(bundle, roots.signers))
    raw = envelope.sign(roots.bundle(version=2), roots.signers)
    assert accept_next(old, raw, NOW).version == 2
    with pytest.raises(BundleBelowThreshold):
        accept_next(old, raw, NOW + timedelta(days=1))


def test_an_expired_bundle_is_a_step_on_the_way_to_a_newer_one(roots: Roots) -> None:
    later = NOW + timedelta(days=2)
    expired = envelope.sign(roots.bundle(2, lifetime=timedelta(days=1)), roots.signers)
    newest = envelope.sign(roots.bundle(3), roots.signers)
    store = accept_next(accept_next(first(roots), expired, later), newest, later)
    assert store.keys_for("desired", later)


def test_a_bundle_that_no_one_would_believe_is_not_signed(roots: Roots) -> None:
    with pytest.raises(BundleBelowThreshold):
        sign_bundle(roots.bundle(), roots.signers[:1])
    with pytest.raises(BadBundle):
        sign_bundle(replace(roots.bundle(), ca=[]), roots.signers)
