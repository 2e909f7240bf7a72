from argon2 import PasswordHasher

from tensorguard.services.people.passwords import (
    generate_password,
    hash_password,
    needs_rehash,
    verify_password,
)

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def test_a_password_verifies_against_its_own_hash_only() -> None:
    stored = hash_password("correct horse", CHEAP)
    assert stored.startswith("$argon2id$")
    assert "correct" not in stored
    assert verify_password(stored, "correct horse", CHEAP)
    assert not verify_password(stored, "correct hors", CHEAP)
    assert not verify_password(stored, "", CHEAP)
    assert hash_password("correct horse", CHEAP) != stored


def test_what_is_no_hash_verifies_nothing() -> None:
    for stored in ("", "!", "$argon2id$v=19$m=8,t=1,p=1$", "correct horse"):
        assert not verify_password(stored, "correct horse", CHEAP)


def test_a_hash_of_weaker_parameters_is_made_anew() -> None:
    stored = hash_password("x", CHEAP)
    assert not needs_rehash(stored, CHEAP)
    assert needs_rehash(stored)


def test_generated_passwords_are_long_and_differ() -> None:
    made = {generate_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 24 for password in made)
