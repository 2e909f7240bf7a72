"""What a migration makes of the rows that an older platform has left."""

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import tensorguard.store.migrate
from tensorguard.store.url import driver_url
from tests.postgres import Server


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[str]:
    """The owner's URL of a database without a schema."""
    name = f"tg_before_{secrets.token_hex(4)}"
    with psycopg.connect(postgres.url(None, "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER tg_owner")
    yield postgres.url("tg_owner", name)
    postgres.drop(name)


def migrate(connection: sa.Connection, *, to: str | None) -> None:
    """Migrate to a revision, or to the one before the publishers'."""
    config = Config()
    folder = Path(tensorguard.store.migrate.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    config.attributes["connection"] = connection
    before = ScriptDirectory.from_config(config).get_revision("0006").down_revision
    command.upgrade(config, to or str(before))
    connection.commit()


def envelope(*kids: str) -> bytes:
    payload = json.dumps({"publishers": [{"kid": kid} for kid in kids]}).encode()
    return json.dumps({"payload": base64.b64encode(payload).decode(), "signatures": []}).encode()


def test_bundles_that_were_published_tell_which_publishers_agents_know(
    empty_database: str,
) -> None:
    engine = sa.create_engine(driver_url(empty_database))
    with engine.connect() as connection:
        migrate(connection, to=None)
        for version, kids in enumerate([(), ("a",), ("a", "gone"), ("a",)], start=1):
            connection.execute(
                sa.text("INSERT INTO trust_bundles VALUES (:v, :e, now(), now())"),
                {"v": version, "e": envelope(*kids)},
            )
        for kid, revoked in (("a", None), ("gone", "now"), ("new", None), ("never", "now")):
            connection.execute(
                sa.text(
                    "INSERT INTO publishers VALUES (:kid, 'p', 'ed25519', '', '{*}',"
                    " now() + interval '1 day', now(), 'x', CAST(:revoked AS timestamptz))"
                ),
                {"kid": kid, "revoked": revoked},
            )
        connection.commit()
        migrate(connection, to="0006")
        found = connection.execute(
            sa.text("SELECT kid, told_in, not_before = created_at AS same FROM publishers")
        )
        assert {(row.kid, row.told_in, row.same) for row in found} == {
            ("a", 2, True),
            ("gone", 4, True),
            ("new", None, True),
            ("never", 1, True),
        }
    engine.dispose()


def test_denials_learn_when_the_certificates_end_that_are_known(
    empty_database: str, postgres: Server
) -> None:
    engine = sa.create_engine(driver_url(empty_database))
    with engine.connect() as connection:
        migrate(connection, to="0010")
        name = connection.engine.url.database
        with psycopg.connect(postgres.url(None, str(name))) as superuser:
            superuser.execute("SET session_replication_role = replica")  # an agent is not needed
            superuser.execute(
                "INSERT INTO certificates (serial, agent_id, spki_sha256, certificate, not_before,"
                " not_after, issued_at, authority_key_id)"
                " VALUES ('aa', gen_random_uuid(), '', '', '2026-01-01', '2026-01-08', now(), '')"
            )
            superuser.execute(
                "INSERT INTO revocations (seq, agent_id, serial, reason, revoked_at, revoked_by)"
                " VALUES (1, NULL, 'aa', '', now(), ''), (2, NULL, 'bb', '', now(), ''),"
                " (3, gen_random_uuid(), NULL, '', now(), '')"
            )
        migrate(connection, to="0011")
        ends = "SELECT seq, not_after::date::text FROM revocations ORDER BY seq"
        assert [tuple(row) for row in connection.execute(sa.text(ends))] == [
            (1, "2026-01-08"),
            (2, None),
            (3, None),
        ]
    engine.dispose()
