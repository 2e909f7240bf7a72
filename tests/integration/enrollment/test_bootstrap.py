"""The first start of a platform, and every start after it."""

import asyncio
import hashlib
import subprocess
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from tensorguard.ledger.checkpoint import parse_verifier_key
from tensorguard.pki.bundle import TrustStore, accept_next
from tensorguard.pki.errors import BundleBelowThreshold
from tensorguard.pki.keys import Ed25519Signer
from tensorguard.protocol.envelope import open_signed
from tensorguard.protocol.messages import FleetConfig
from tensorguard.services.errors import (
    FleetExists,
    FleetNotFound,
    Invalid,
    KeyNotLoaded,
    PlatformNotInitialised,
    RootKeysUnusable,
    TrustBundleNotFound,
    TrustDomainMismatch,
)
from tensorguard.services.fleets.fleets import create_fleet, get_config_envelope, set_config
from tensorguard.services.keys.keyring import API_SECRETS, BROKER_SECRETS, Keyring
from tensorguard.services.keys.sealed_rows import open_stored
from tensorguard.services.people.passwords import verify_password
from tensorguard.services.platform import bootstrap
from tensorguard.services.trust.rootkeys import load_root_directory
from tensorguard.services.trust.trust import get_bundle_envelope, get_latest_bundle
from tensorguard.services.trust.trust_publishing import publish_next
from tensorguard.store.engine import SessionMaker
from tensorguard.vault.errors import KeyMissing, PermissionDenied, WrongContext
from tensorguard.vault.local import LocalKeyProvider
from tests.integration.enrollment.builders import (
    CHEAP,
    FLEET,
    NOW,
    OPERATOR,
    TRUST_DOMAIN,
    Platform,
    start_platform,
)


async def load(maker: SessionMaker, kek: LocalKeyProvider) -> Keyring:
    async with maker() as session:
        return await Keyring.load(session, kek)


async def test_the_first_start_makes_everything_that_a_keyring_opens(
    maker: SessionMaker, kek: LocalKeyProvider, tmp_path: Path
) -> None:
    made = await start_platform(maker, kek, tmp_path / "root")
    keyring = await load(maker, kek)

    assert made.trust_version == keyring.trust.version == 1
    assert keyring.trust_domain == TRUST_DOMAIN
    assert keyring.trust.cas == (keyring.ca.certificate,)
    for kind in ("desired", "grant", "certificate", "command", "config", "ledger"):
        assert keyring.signer(kind).kid in keyring.trust.keys_for(kind, NOW)
    kinds = ("desired", "grant", "command", "config", "ledger")
    assert len({keyring.signer(kind).kid for kind in kinds}) == 5
    assert len(keyring.url_key) == 32
    assert len(keyring.recipient_key.public_key().public_bytes_raw()) == 32
    assert TrustStore.open_first(keyring.trust_bundle_envelope) == keyring.trust


async def test_the_administrator_s_password_is_shown_once_and_stored_as_a_hash(
    maker: SessionMaker, kek: LocalKeyProvider, tmp_path: Path
) -> None:
    made = await start_platform(maker, kek, tmp_path / "root")
    async with maker() as session:
        row = (await session.execute(sa.text("SELECT * FROM users"))).one()

    assert made.admin_password is not None
    assert (row.email, row.role) == ("admin@tensorguard.local", "admin")
    assert verify_password(row.password_hash, made.admin_password, CHEAP)
    assert made.admin_password not in repr(made)
    assert (await start_platform(maker, kek, tmp_path / "root")).admin_password is None


async def test_a_second_start_changes_nothing(platform: Platform) -> None:
    before = platform.stored()
    again = await start_platform(platform.maker, platform.kek, platform.root_dir)
    keyring = await load(platform.maker, platform.kek)

    assert again.admin_password is None
    assert again.trust_version == 1
    assert platform.stored() == before
    assert keyring.ca.certificate == platform.keyring.ca.certificate


async def test_of_two_starts_at_the_same_time_one_makes_the_platform(
    maker: SessionMaker, kek: LocalKeyProvider, tmp_path: Path
) -> None:
    made = await asyncio.gather(*(start_platform(maker, kek, tmp_path / "root") for _ in range(4)))

    assert len([one for one in made if one.admin_password is not None]) == 1
    assert {one.trust_version for one in made} == {1}
    async with maker() as session:
        for table, rows in (("ca_certificates", 1), ("signing_keys", 5), ("users", 1)):
            count = await session.execute(sa.text(f"SELECT count(*) FROM {table}"))
            assert count.scalar_one() == rows
    assert len(list((tmp_path / "root").glob("root-*.key"))) == 2


def remove_one_root_key(root_dir: Path) -> None:
    next(root_dir.glob("root-*.key")).unlink()


async def test_a_start_that_was_killed_before_its_commit_is_made_up_for(
    maker: SessionMaker, kek: LocalKeyProvider, tmp_path: Path
) -> None:

    async with maker() as session:  # rolled back
        await bootstrap(
            session,
            kek=kek,
            trust_domain=TRUST_DOMAIN,
            root_dir=tmp_path / "root",
            now=NOW,
            hash_with=CHEAP.hash,
        )
    remove_one_root_key(tmp_path / "root")  # as if it had been killed earlier still

    made = await start_platform(maker, kek, tmp_path / "root")

    assert made.admin_password is not None
    kids = {key.kid for key in (await load(maker, kek)).trust.bundle.keys.root}
    assert kids == {signer.kid for signer in load_root_directory(tmp_path / "root")}
    assert len(kids) == 2


async def test_another_trust_domain_than_the_database_s_is_refused(platform: Platform) -> None:
    with pytest.raises(TrustDomainMismatch):
        await start_platform(platform.maker, platform.kek, platform.root_dir, "other.example")


async def test_a_keyring_cannot_be_loaded_before_the_first_start(
    maker: SessionMaker, kek: LocalKeyProvider
) -> None:
    with pytest.raises(PlatformNotInitialised):
        await load(maker, kek)


async def test_without_its_kek_nothing_in_the_database_opens(
    platform: Platform, tmp_path: Path
) -> None:
    with pytest.raises(KeyMissing):
        await load(platform.maker, LocalKeyProvider.open_or_create(tmp_path / "another-kek"))


async def test_no_secret_is_readable_in_the_database(platform: Platform) -> None:
    keyring = platform.keyring
    secrets = [
        keyring.ca.private_key_der(),
        keyring.signer("desired").seed(),
        keyring.recipient_key.private_bytes_raw(),
        keyring.url_key,
    ]
    stored = b"".join(
        b"".join(bytes(value) for value in row)
        for row in platform.rows("SELECT wrapped, nonce, ciphertext, context FROM secrets")
    )
    assert len(platform.rows("SELECT id FROM secrets")) == 9
    assert not any(secret[-32:] in stored for secret in secrets)


async def test_a_sealed_row_copied_over_another_does_not_open(platform: Platform) -> None:
    desired = platform.keyring.signer("desired").kid
    grant = platform.keyring.signer("grant").kid
    platform.run(
        "UPDATE secrets d SET wrapped = s.wrapped, nonce = s.nonce, ciphertext = s.ciphertext,"
        " context = s.context FROM secrets s WHERE d.owner = %s AND s.owner = %s",
        grant,
        desired,
    )
    with pytest.raises(WrongContext):
        await load(platform.maker, platform.kek)
    async with platform.maker() as session:
        with pytest.raises(WrongContext):
            await open_stored(session, platform.kek, purpose="signing-key-grant", owner=grant)


async def test_a_process_has_only_the_keys_that_it_asked_for(platform: Platform) -> None:
    async with platform.maker() as session:
        api = await Keyring.load(session, platform.kek, only=API_SECRETS)
        broker = await Keyring.load(session, None, only=BROKER_SECRETS)
        with pytest.raises(KeyNotLoaded):
            await Keyring.load(session, None, only=API_SECRETS)
    assert api.ca.certificate == platform.keyring.ca.certificate
    assert broker.trust == platform.keyring.trust
    with pytest.raises(KeyNotLoaded):
        _ = broker.ca
    assert api.config_signer.kid == platform.keyring.config_signer.kid
    for kind in ("desired", "grant", "command"):
        with pytest.raises(KeyNotLoaded):
            api.signer(kind)
    with pytest.raises(KeyNotLoaded):
        _ = broker.url_key
    with pytest.raises(KeyNotLoaded):
        platform.keyring.signer("unheard-of")


async def test_openssl_opens_a_root_key_with_its_passphrase_only(platform: Platform) -> None:
    key = next(iter(platform.root_dir.glob("root-*.key")))
    passphrase = platform.root_dir / "root-passphrase"
    for path in (key, passphrase):
        assert path.stat().st_mode & 0o777 == 0o600

    def openssl(source: str) -> int:
        command = ["openssl", "pkey", "-in", str(key), "-noout", "-passin", source]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode

    assert openssl(f"file:{passphrase}") == 0
    assert openssl("pass:guess") != 0
    assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()


async def test_root_keys_without_their_passphrase_are_never_overwritten(
    maker: SessionMaker, kek: LocalKeyProvider, tmp_path: Path
) -> None:
    root_dir = tmp_path / "root"
    root_dir.mkdir()
    (root_dir / "root-0123.key").write_text("precious")
    with pytest.raises(RootKeysUnusable):
        await start_platform(maker, kek, root_dir)
    assert [path.name for path in root_dir.iterdir()] == ["root-0123.key"]


async def test_root_keys_that_others_can_read_are_refused(platform: Platform) -> None:
    (platform.root_dir / "root-passphrase").chmod(0o644)
    with pytest.raises(PermissionDenied):
        load_root_directory(platform.root_dir)
    with pytest.raises(RootKeysUnusable):
        load_root_directory(platform.root_dir / "elsewhere")


async def test_the_next_bundle_carries_what_the_tables_say(platform: Platform) -> None:
    publisher = Ed25519Signer.generate()
    platform.run(
        "INSERT INTO publishers (kid, name, alg, public, names, not_after, not_before, created_at,"
        " created_by) VALUES (%s, 'acme', 'ed25519', %s, '{acme-*}', %s, %s, %s, 'x')",
        publisher.kid,
        publisher.public_raw,
        NOW + timedelta(days=30),
        NOW,
        NOW,
    )
    async with platform.maker() as session, session.begin():
        roots = load_root_directory(platform.root_dir)
        published = await publish_next(session, roots[:1], by=OPERATOR, now=NOW)
    async with platform.maker() as session:
        newest = await get_latest_bundle(session)
        raw = await get_bundle_envelope(session, 2)
        with pytest.raises(TrustBundleNotFound):
            await get_bundle_envelope(session, 3)
        with pytest.raises(TrustBundleNotFound):
            await get_bundle_envelope(session, 2**70)

    assert published == newest == accept_next(platform.keyring.trust, raw, NOW)
    assert [one.kid for one in newest.publishers(NOW)] == [publisher.kid]
    assert newest.publishers(NOW)[0].names == ["acme-*"]
    assert (
        newest.keys_for("desired", NOW).keys()
        == platform.keyring.trust.keys_for("desired", NOW).keys()
    )
    assert hashlib.sha256(raw).hexdigest() in platform.events("trust-bundle.published")[1]


async def test_a_bundle_signed_by_strangers_is_not_published(platform: Platform) -> None:
    async with platform.maker() as session, session.begin():
        with pytest.raises(BundleBelowThreshold):
            await publish_next(session, [Ed25519Signer.generate()], by=OPERATOR, now=NOW)
    assert platform.rows("SELECT count(*) FROM trust_bundles") == [(1,)]


async def test_the_ledger_says_what_was_made_and_names_its_own_key(platform: Platform) -> None:
    assert len(platform.events("platform.initialised")) == 1
    assert len(platform.events("key.created")) == 7
    (created,) = platform.events("ledger.key-created")
    verifier = created.split('"verifier_key":"')[1].split('"')[0].replace("\\/", "/")
    key = parse_verifier_key(verifier)
    assert key.name == f"{TRUST_DOMAIN}/ledger/1"
    assert key.public.public_bytes_raw() == platform.keyring.signer("ledger").public_raw
    assert "admin@" not in "".join(platform.events("user.created"))


async def config_of(platform: Platform, *, now: timedelta = timedelta(0)) -> FleetConfig:
    async with platform.maker() as session, session.begin():
        raw = await get_config_envelope(session, platform.keyring, FLEET, now=NOW + now)
    return open_signed(
        raw,
        FleetConfig,
        keys=platform.keyring.trust.keys_for("config", NOW),
        trust_domain=TRUST_DOMAIN,
        now=NOW + now,
        fleet=FLEET,
    )


async def test_a_fleet_has_a_signed_config_from_its_first_moment(platform: Platform) -> None:
    config = await config_of(platform)
    assert (config.epoch, config.revision, config.heartbeat_interval_s) == (1, 1, 10)
    assert len(platform.events("fleet.created")) == 1


async def test_a_config_is_byte_identical_until_it_is_signed_anew_a_day_before_its_end(
    platform: Platform,
) -> None:
    first = await config_of(platform)
    assert await config_of(platform, now=timedelta(days=5, hours=23)) == first
    second = await config_of(platform, now=timedelta(days=6))
    assert second == replace_times(first, timedelta(days=6))
    assert await config_of(platform, now=timedelta(days=6, minutes=1)) == second


def replace_times(config: FleetConfig, by: timedelta) -> FleetConfig:
    return msgspec.structs.replace(
        config, issued_at=config.issued_at + by, expires_at=config.expires_at + by
    )


async def test_a_changed_config_has_a_higher_revision_and_is_in_the_ledger(
    platform: Platform,
) -> None:
    async with platform.maker() as session, session.begin():
        for interval in (60, 60):
            revision = await set_config(
                session,
                platform.keyring,
                FLEET,
                heartbeat_interval_s=interval,
                by=OPERATOR,
                now=NOW,
            )
            assert revision == 2
    config = await config_of(platform)
    assert (config.revision, config.heartbeat_interval_s) == (2, 60)
    (event,) = platform.events("fleet.config-changed")
    assert '"before":{"heartbeat_interval_s":10}' in event


async def test_changes_to_a_fleet_that_cannot_be_are_refused(platform: Platform) -> None:
    async with platform.maker() as session:
        for interval in (0, 3601):
            with pytest.raises(Invalid):
                await set_config(
                    session,
                    platform.keyring,
                    FLEET,
                    heartbeat_interval_s=interval,
                    by=OPERATOR,
                    now=NOW,
                )
        with pytest.raises(FleetNotFound):
            await get_config_envelope(session, platform.keyring, "nowhere", now=NOW)


@pytest.mark.parametrize("slug", ["", "A", "-a", "a-", "a_b", "a" * 41, "a\n", "ä", "../x"])
async def test_a_slug_of_another_form_makes_no_fleet(platform: Platform, slug: str) -> None:
    async with platform.maker() as session:
        with pytest.raises(Invalid):
            await create_fleet(session, platform.keyring, slug=slug, name="N", by=OPERATOR, now=NOW)


@pytest.mark.parametrize("name", ["", "  ", "n" * 201, "a\x00b", "a\nb"])
async def test_a_name_of_another_form_makes_no_fleet(platform: Platform, name: str) -> None:
    async with platform.maker() as session:
        with pytest.raises(Invalid):
            await create_fleet(session, platform.keyring, slug="b", name=name, by=OPERATOR, now=NOW)


async def test_a_slug_is_given_once(platform: Platform) -> None:
    async with platform.maker() as session:
        with pytest.raises(FleetExists):
            await create_fleet(
                session, platform.keyring, slug=FLEET, name="Again", by=OPERATOR, now=NOW
            )
