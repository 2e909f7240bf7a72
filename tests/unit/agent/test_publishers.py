"""A device goes by the publishers of its trust bundle, from the moment at which it has it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.runtime.packages import PackageRefused, PackageStore
from tensorguard.pki.bundle import TrustStore, accept_next
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol.messages import Desired, DesiredPackage, Grant, TrustedPublisher
from tensorguard.tgsp import builder
from tensorguard.tgsp.grants import open_embedded_grant, seal_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.reader import read_header
from tests.unit.agent.builders import AGENT, DEPLOYMENT, Signers

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FLEET = AGENT.fleet


@dataclass
class Device:
    """A device that holds a package file, the document that asks for it, and a grant."""

    signers: Signers
    store: PackageStore
    desired: Desired
    grant: Grant
    key: X25519PrivateKey
    trust: TrustStore

    def learn(self, *publishers: TrustedPublisher) -> None:
        """Believe the next trust bundle, which names these publishers."""
        raw = self.signers.bundle(self.trust.version + 1, publishers=list(publishers))
        self.trust = accept_next(self.trust, raw, NOW)

    def publisher(self, **changes: Any) -> TrustedPublisher:
        return msgspec.structs.replace(self.signers.trust().bundle.publishers[0], **changes)

    def verify(self, now: datetime = NOW) -> str | None:
        """The code of the refusal, if it is refused."""
        try:
            self.store.verify(self.desired, self.trust, now, fleet=FLEET, floors={})
        except PackageRefused as refused:
            return refused.failure.code
        return None

    def open(self, now: datetime = NOW) -> str | None:
        try:
            self.store.open(
                self.desired, self.grant, self.key, self.trust, now, fleet=FLEET, floors={}
            )
        except PackageRefused as refused:
            return refused.failure.code
        return None


@pytest.fixture
def device(tmp_path: Path) -> Device:
    signers, key = Signers(NOW), X25519PrivateKey.generate()
    model, file = tmp_path / "model.onnx", tmp_path / "model.tgsp"
    model.write_bytes(b"weights")
    builder.build(
        model,
        file,
        name="model",
        version="1.0.0",
        seq=1,
        publisher=signers.publisher.private_key,
        recipient=key.public_key(),
        created=int(NOW.timestamp()),
        not_before=int(NOW.timestamp()) - 86_400,
    )
    store = PackageStore(tmp_path)
    store.prepare()
    with file.open("rb") as opened:
        header = read_header(opened, file.stat().st_size)
    file.rename(store.file(header.digest.hex()))
    exp = int((NOW + 10 * DAY).timestamp())
    dek = open_embedded_grant(
        header.grants,
        recipient=key,
        manifest_digest=header.digest,
        now_s=int(NOW.timestamp()),
    )
    package = DesiredPackage(
        digest=header.digest.hex(), size=1000, url=f"/device/v1/packages/{header.digest.hex()}"
    )
    desired = Desired(
        **signers.times(),
        agent_id=AGENT.agent_id,
        deployment_id=DEPLOYMENT,
        release=None,
        package=package,
        tags={},
        min_seq=1,
        allow_downgrade=False,
        epoch=1,
        revision=1,
    )
    grant = Grant(
        **signers.times(),
        agent_id=AGENT.agent_id,
        request_id=DEPLOYMENT,
        package_digest=header.digest.hex(),
        kid=compute_kid(key.public_key()).hex(),
        exp=exp,
        sealed=seal_grant(dek, recipient=key.public_key(), manifest_digest=header.digest, exp=exp),
    )
    return Device(signers, store, desired, grant, key, signers.trust())


def test_a_revoked_publishers_package_is_not_opened_from_the_bundle_on(device: Device) -> None:
    assert device.verify() is None
    device.learn()  # verified a moment ago, and its grant is good
    assert device.open() == "unknown-publisher"
    assert not device.store.directory(device.grant.package_digest).exists()
    assert device.verify() == "unknown-publisher"


def test_what_was_opened_before_is_not_taken_up_again_after_it(device: Device) -> None:
    assert device.verify() is None
    assert device.open() is None
    assert (device.store.directory(device.grant.package_digest) / "model.onnx").exists()
    assert device.open() is None
    device.learn()
    assert device.open() == "unknown-publisher"


def test_a_publisher_counts_within_its_window_by_the_devices_time(device: Device) -> None:
    device.learn(device.publisher(not_before=NOW, not_after=NOW + DAY))
    assert device.open(NOW - timedelta(seconds=1)) == "publisher-not-yet-valid"
    assert device.open(NOW + DAY + timedelta(seconds=1)) == "publisher-expired"
    assert device.open(NOW) is None


def test_a_publisher_signs_the_names_that_the_newest_bundle_lets_it(device: Device) -> None:
    device.learn(device.publisher(names=["other-*"]))
    assert device.open() == "publisher-not-allowed"
    device.learn(device.publisher(names=["other-*", "mod*"]))
    assert device.open() is None


def test_both_are_believed_while_one_takes_the_others_place(device: Device) -> None:
    heir = Ed25519Signer.generate()
    successor = device.publisher(kid=heir.kid, public=heir.public_raw, not_before=NOW - DAY)
    device.learn(device.publisher(not_after=NOW + DAY), successor)
    assert device.open() is None
    device.learn(successor)
    assert device.open() == "unknown-publisher"
