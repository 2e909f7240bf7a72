from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.vault.errors import Corrupted, KeyMissing, VaultError, WrongContext
from tensorguard.vault.local import LocalKeyProvider
from tensorguard.vault.provider import canonical_context
from tensorguard.vault.sealed import open_secret, rewrap, seal

CONTEXT = {"purpose": "ca-key", "owner": "platform"}
SECRET = b"the secret of the platform" * 40

contexts = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4).map(
    lambda extra: {**extra, "purpose": "p" + extra.get("purpose", ""), "owner": "o"}
)


@pytest.fixture
def provider(tmp_path: Path) -> LocalKeyProvider:
    return LocalKeyProvider.open_or_create(tmp_path / "kek")


@pytest.mark.parametrize("secret", [b"", b"x", SECRET])
async def test_a_sealed_secret_opens_in_its_context(
    provider: LocalKeyProvider, secret: bytes
) -> None:
    sealed = await seal(provider, secret, CONTEXT)
    assert await open_secret(provider, sealed, CONTEXT) == secret
    if secret == SECRET:
        assert secret[:16] not in sealed.ciphertext
    assert (sealed.provider, sealed.key_version) == ("local", "1")


async def test_a_row_copied_to_another_row_does_not_open(provider: LocalKeyProvider) -> None:
    other = {"purpose": "ca-key", "owner": "somebody-else"}
    sealed = await seal(provider, SECRET, CONTEXT)
    with pytest.raises(WrongContext):
        await open_secret(provider, sealed, other)
    with pytest.raises(WrongContext):  # even when the copied row's context is made to agree
        await open_secret(provider, replace(sealed, context=other), other)


async def test_parts_of_two_secrets_do_not_make_a_third(provider: LocalKeyProvider) -> None:
    one = await seal(provider, SECRET, CONTEXT)
    two = await seal(provider, b"another", CONTEXT)
    for mixed in (
        replace(one, wrapped=two.wrapped),
        replace(one, ciphertext=two.ciphertext, nonce=two.nonce),
        replace(one, nonce=two.nonce),
        replace(one, nonce=b""),
        replace(one, ciphertext=one.ciphertext[:-1]),
    ):
        with pytest.raises(Corrupted):
            await open_secret(provider, mixed, CONTEXT)


async def test_another_kek_opens_nothing(provider: LocalKeyProvider, tmp_path: Path) -> None:
    sealed = await seal(provider, SECRET, CONTEXT)
    stranger = LocalKeyProvider.open_or_create(tmp_path / "other")
    with pytest.raises(KeyMissing):
        await open_secret(stranger, sealed, CONTEXT)


async def test_no_refusal_quotes_the_secret(provider: LocalKeyProvider) -> None:
    sealed = await seal(provider, SECRET, CONTEXT)
    with pytest.raises(VaultError) as refusal:
        await open_secret(provider, replace(sealed, nonce=bytes(12)), CONTEXT)
    assert "secret of the platform" not in repr(refusal.value)


async def test_rewrapping_moves_the_key_and_leaves_the_ciphertext(
    provider: LocalKeyProvider, tmp_path: Path
) -> None:
    sealed = await seal(provider, SECRET, CONTEXT)
    target = LocalKeyProvider.open_or_create(tmp_path / "target")

    moved = await rewrap(provider, target, sealed, CONTEXT)

    assert moved.ciphertext == sealed.ciphertext
    assert await open_secret(target, moved, CONTEXT) == SECRET
    with pytest.raises(KeyMissing):
        await open_secret(provider, moved, CONTEXT)


@given(contexts, contexts)
def test_two_contexts_never_have_the_same_bytes(one: dict[str, str], two: dict[str, str]) -> None:
    assert (canonical_context(one) == canonical_context(two)) == (one == two)


@pytest.mark.parametrize(
    "context", [{}, {"purpose": "p"}, {"owner": "o"}, {"purpose": "", "owner": "o"}]
)
async def test_a_secret_without_purpose_or_owner_is_not_sealed(
    provider: LocalKeyProvider, context: dict[str, str]
) -> None:
    with pytest.raises(WrongContext):
        await seal(provider, SECRET, context)
