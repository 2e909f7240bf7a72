"""What the database fixtures promise to every other test."""

import psycopg
import pytest

from tests.postgres import Database


@pytest.mark.parametrize("role", ["owner", "app"])
def test_both_roles_reach_the_worker_s_database(database: Database, role: str) -> None:
    with psycopg.connect(getattr(database, f"{role}_url")) as connection:
        row = connection.execute("SELECT current_user, current_database()").fetchone()
    assert row == (f"tg_{role}", database.name)


def test_the_app_role_may_create_nothing(database: Database) -> None:
    with (
        psycopg.connect(database.app_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE mine (id int)")


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_fresh_database_has_nothing_of_another_test(
    fresh_database: Database, attempt: int
) -> None:
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute("CREATE TABLE left_over (id int)")


def test_cleaning_keeps_what_the_migrations_left_and_removes_the_rest(
    fresh_database: Database,
) -> None:
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute("CREATE TABLE parent (id int PRIMARY KEY)")
        connection.execute("CREATE TABLE child (id int REFERENCES parent)")
        connection.execute("INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)")
    seeded = fresh_database.filled_tables() - {"parent", "child"}
    assert fresh_database.is_cleaned(keep=seeded)
    assert fresh_database.filled_tables() == seeded


def test_cleaning_says_when_a_table_refuses(fresh_database: Database) -> None:
    with psycopg.connect(fresh_database.owner_url) as connection:
        connection.execute("CREATE TABLE ledger_like (id int)")
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'append only'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE DELETE ON ledger_like EXECUTE FUNCTION refuse()"
        )
        connection.execute("ALTER TABLE ledger_like ENABLE ALWAYS TRIGGER refuse")
        connection.execute("INSERT INTO ledger_like VALUES (1)")
    assert not fresh_database.is_cleaned(keep=frozenset())
