"""A trust bundle that travels to its signatures, and what it tells whoever is to sign it."""

from datetime import timedelta

import msgspec
import pytest

from tensorguard.pki.bundle import TrustStore, accept_next, sign_bundle
from tensorguard.pki.changes import describe_changes, describe_differences
from tensorguard.pki.draft import LIMIT_BYTES, Draft
from tensorguard.pki.errors import BadBundle, BundleBelowThreshold
from tensorguard.pki.identity import spki_sha256
from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol import envelope
from tensorguard.protocol.errors import BadSignature
from tests.unit.pki.builders import NOW, TRUST_DOMAIN, Roots

replace = msgspec.structs.replace


@pytest.fixture
def old() -> Roots:
    return Roots(count=3, threshold=2)


@pytest.fixture
def new() -> Roots:
    return Roots(count=2, threshold=2)


def draft_of(old: Roots, new: Roots) -> Draft:
    return Draft.of(sign_bundle(old.bundle(), old.signers), new.bundle(version=2))


def test_signatures_gather_over_many_hands_in_any_order(old: Roots, new: Roots) -> None:
    draft = draft_of(old, new)
    for signer in (new.signers[1], old.signers[2], new.signers[0], old.signers[0]):
        assert any(one.missing for one in draft.quorums(NOW))
        draft = Draft.parse(draft.sign(signer).to_bytes())
    assert not any(one.missing for one in draft.quorums(NOW))
    current = TrustStore.open_first(draft.current_envelope)
    assert accept_next(current, draft.envelope, NOW).version == 2


def test_what_is_missing_is_told_by_key_for_both_sides(old: Roots, new: Roots) -> None:
    draft = draft_of(old, new).sign(old.signers[0]).sign(new.signers[0])
    of_old, of_new = draft.quorums(NOW)
    assert (of_old.missing, of_old.signed) == (1, [old.signers[0].kid])
    assert set(of_old.unsigned) == {one.kid for one in old.signers[1:]}
    assert (of_new.missing, of_new.unsigned) == (1, [new.signers[1].kid])
    current = TrustStore.open_first(draft.current_envelope)
    with pytest.raises(BundleBelowThreshold) as refused:
        accept_next(current, draft.envelope, NOW)
    assert all(one.kid[:16] in refused.value.message for one in old.signers[1:])


def test_signing_twice_counts_once(old: Roots, new: Roots) -> None:
    draft = draft_of(old, new).sign(old.signers[0]).sign(old.signers[0])
    assert len(envelope.parse(draft.envelope).signatures) == 1
    assert draft.quorums(NOW)[0].missing == 1


def test_a_key_that_neither_bundle_names_does_not_sign(old: Roots, new: Roots) -> None:
    with pytest.raises(BadBundle, match="counts for nothing"):
        draft_of(old, new).sign(Ed25519Signer.generate())


def test_a_draft_that_was_changed_after_a_signature_is_refused(old: Roots, new: Roots) -> None:
    signed = draft_of(old, new).sign(old.signers[0])
    other = replace(new.bundle(version=2), root_threshold=1)
    mixed = envelope.parse(envelope.sign(other, []))
    mixed.signatures.extend(envelope.parse(signed.envelope).signatures)
    spoilt = Draft(signed.current_envelope, msgspec.json.encode(mixed))
    with pytest.raises(BadSignature):
        spoilt.quorums(NOW)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"draft": "x"}', b" " * (LIMIT_BYTES + 1)])
def test_what_is_no_draft_is_refused(raw: bytes) -> None:
    with pytest.raises(BadBundle):
        Draft.parse(raw)


def test_every_change_is_told_in_words(old: Roots) -> None:
    before = old.bundle()
    ca = CertificateAuthority.create(TRUST_DOMAIN, NOW)
    key = replace(before.keys.desired[0], not_after=NOW + timedelta(days=5))
    after = replace(
        before,
        version=2,
        root_threshold=3,
        ca=[ca.certificate_pem],
        keys=replace(before.keys, desired=[key], grant=[]),
    )
    told = "\n".join(describe_changes(before, after))
    assert "bundle 2 of example.tensorguard, after bundle 1" in told
    assert "CHANGES the threshold: 2 → 3 of 3" in told
    assert f"ADDS CA {spki_sha256(ca.certificate)}" in told
    assert f"REMOVES CA {spki_sha256(old.ca.certificate)}" in told
    assert f"CHANGES desired key {key.kid}" in told
    assert f"REMOVES grant key {key.kid}" in told
    assert told.count("keeps root key") == 3
    assert describe_differences(before, replace(before, root_threshold=1)) == []


def test_the_newest_ca_is_the_one_that_is_valid_from_the_latest_on(old: Roots) -> None:
    newer = CertificateAuthority.create(TRUST_DOMAIN, NOW + timedelta(seconds=1))
    for pems in ([old.ca, newer], [newer, old.ca]):
        bundle = replace(old.bundle(), ca=[one.certificate_pem for one in pems])
        store = TrustStore.open_first(sign_bundle(bundle, old.signers))
        assert store.newest_ca == newer.certificate
    assert store.renew_within_s == 3600
    sooner = sign_bundle(replace(bundle, renew_within_s=600), old.signers)
    assert TrustStore.open_first(sooner).renew_within_s == 600
