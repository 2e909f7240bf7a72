"""Numbers of revocations become visible in order: a front that polls misses none."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest

from tests.patience import PATIENCE_S
from tests.postgres import Database

INSERT = (
    "INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by)"
    " VALUES (gen_random_uuid(), 'r', now(), 'test') RETURNING seq"
)
SEEN = "SELECT coalesce(max(seq), 0), count(*) FROM revocations"


def insert(url: str, before_commit: threading.Event, inserted: threading.Event) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(INSERT).fetchone()
        inserted.set()
        assert before_commit.wait(20)
    assert row is not None
    return int(row[0])


def test_a_second_revocation_waits_for_the_first_to_commit(fresh_database: Database) -> None:
    go, both, first_in, second_in = (threading.Event() for _ in range(4))
    both.set()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(insert, fresh_database.app_url, go, first_in)
        assert first_in.wait(20)
        second = pool.submit(insert, fresh_database.app_url, both, second_in)
        assert not second_in.wait(0.3)
        with psycopg.connect(fresh_database.app_url) as connection:
            assert connection.execute(SEEN).fetchone() == (0, 0)
        go.set()
        assert first.result(20) < second.result(20)


def test_whoever_polls_sees_no_number_appear_below_one_already_seen(
    fresh_database: Database,
) -> None:
    def revoke(_: int) -> None:
        with psycopg.connect(fresh_database.app_url) as connection:
            for _ in range(15):
                connection.execute(INSERT)
                connection.execute("SELECT pg_sleep(random() * 0.003)")
                if connection.execute("SELECT random() < 0.2").fetchone() == (True,):
                    connection.rollback()
                else:
                    connection.commit()

    seen: dict[int, int] = {}
    with ThreadPoolExecutor(6) as pool:
        writers: list[Future[None]] = [pool.submit(revoke, number) for number in range(6)]
        with psycopg.connect(fresh_database.app_url, autocommit=True) as connection:
            while not all(writer.done() for writer in writers):
                row = connection.execute(SEEN).fetchone()
                assert row is not None
                seen[row[0]] = row[1]
        for writer in writers:
            writer.result()
    with psycopg.connect(fresh_database.app_url) as connection:
        for newest, count in seen.items():
            found = connection.execute(
                "SELECT count(*) FROM revocations WHERE seq <= %s", (newest,)
            ).fetchone()
            assert found == (count,)
    assert len(seen) > 5


def test_the_number_is_the_databases_whatever_a_service_asks_for(
    fresh_database: Database,
) -> None:
    statement = INSERT.replace("(agent_id", "(seq, agent_id").replace("VALUES (", "VALUES (%s, ")
    with psycopg.connect(fresh_database.app_url) as connection:
        numbers = [connection.execute(statement, (wanted,)).fetchone() for wanted in (999, 5)]
    assert numbers == [(1,), (2,)]


def test_revocations_notify_once_when_they_commit(fresh_database: Database) -> None:
    with (
        psycopg.connect(fresh_database.app_url, autocommit=True) as listener,
        psycopg.connect(fresh_database.app_url) as writer,
    ):
        listener.execute("LISTEN tg_revocations")
        for _ in range(3):
            writer.execute(INSERT)
        assert list(listener.notifies(timeout=0.2, stop_after=1)) == []
        writer.commit()
        notices = [
            *listener.notifies(timeout=PATIENCE_S, stop_after=1),
            *listener.notifies(timeout=0.2),
        ]
    assert len(notices) == 1


# Days until the certificate ends; None: unknown.
DENIALS = {"live": 1, "ended-lately": -6.9, "unknown": None, "old": -7.1, "older": -8, "oldest": -9}
DENY = (
    "INSERT INTO revocations (serial, reason, revoked_at, revoked_by, not_after)"
    " VALUES (%s, 'r', now(), 'test', now() + make_interval(secs => %s * 86400)) RETURNING seq"
)
FORGET = "SELECT revocations_forget(%s)"


def test_only_certificates_that_ended_a_week_ago_are_forgotten_the_oldest_first(
    fresh_database: Database,
) -> None:
    with psycopg.connect(fresh_database.app_url) as app:
        app.execute(INSERT)
        for serial, days in DENIALS.items():
            app.execute(DENY, (serial, days))
        app.execute(
            "INSERT INTO revocation_receipts SELECT seq, 'front', now(), 0 FROM revocations"
        )
        serials = "SELECT array_agg(serial ORDER BY seq) FROM revocations"
        rest = [None, "live", "ended-lately", "unknown"]
        # The oldest of all is the newest row: what numbers go by.
        for forgotten, left in [(1, ["old", "oldest"]), (1, ["oldest"]), (0, ["oldest"])]:
            assert app.execute(FORGET, (1,)).fetchone() == (forgotten,)
            assert app.execute(serials).fetchone() == (rest + left,)
        app.execute(INSERT)
        assert app.execute(FORGET, (5,)).fetchone() == (1,)
        assert app.execute(serials).fetchone() == ([*rest, None],)
        assert app.execute("SELECT count(*) FROM revocation_receipts").fetchone() == (4,)


def test_the_services_role_brings_nobody_back(fresh_database: Database) -> None:
    with psycopg.connect(fresh_database.app_url, autocommit=True) as app:
        app.execute(INSERT)
        app.execute(DENY, ("live", 1))
        app.execute(INSERT)
        for attempt in (
            "DELETE FROM revocations",
            "UPDATE revocations SET not_after = '2000-01-01'",
            "ALTER TABLE revocations ALTER not_after SET DEFAULT '2000-01-01'",
            "CREATE OR REPLACE FUNCTION revocations_forget(most integer) RETURNS bigint"
            " LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(attempt)
        with pytest.raises(psycopg.errors.CheckViolation):
            app.execute(
                INSERT.replace("(agent_id", "(not_after, agent_id").replace(
                    "VALUES (", "VALUES ('2000-01-01', "
                )
            )
        # A table that is found before the real one gives neither rows nor, by a trigger, rights.
        app.execute("CREATE TEMPORARY TABLE revocations AS SELECT * FROM public.revocations")
        app.execute("UPDATE pg_temp.revocations SET not_after = '2000-01-01'")
        app.execute("GRANT ALL ON pg_temp.revocations TO PUBLIC")
        assert app.execute(FORGET, (9,)).fetchone() == (0,)
        for schema in ("public", "pg_temp"):
            count = app.execute(f"SELECT count(*) FROM {schema}.revocations")
            assert count.fetchone() == (3,)


@pytest.mark.parametrize("columns", ["", ", serial"])
def test_a_revocation_names_an_agent_or_a_serial_and_never_both(
    fresh_database: Database, columns: str
) -> None:
    values = {"": "", ", serial": ", 'aa'"}[columns]
    agent = {"": "NULL", ", serial": "gen_random_uuid()"}[columns]
    with (
        psycopg.connect(fresh_database.app_url) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute(
            f"INSERT INTO revocations (agent_id, reason, revoked_at, revoked_by{columns})"
            f" VALUES ({agent}, 'r', now(), 'test'{values})"
        )
