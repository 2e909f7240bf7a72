"""Whatever bytes come: taken in the one form, or refused by a code, and never anything else."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorguard.tgsp import cbor, grants
from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.errors import BadPath, GrantRefused, NotCanonical
from tensorguard.tgsp.manifest import FileEntry, Manifest, Payload, Target
from tensorguard.tgsp.paths import check_path
from tests.unit.tgsp.builders import Forge
from tests.unit.tgsp.fuzzing import CORPUS, RECIPIENT, TARGETS, fuzz, list_corpus, survives
from tests.unit.tgsp.refusals import refusal

DEEP = 20 if os.environ.get("TG_TEST_DEEP") else 1
FEW = settings(max_examples=25 * DEEP)

leaves = st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_breaks_nothing(target: str) -> None:
    corpus = list_corpus(target)
    assert len(corpus) >= 3
    assert all(survives(target, data) for data in corpus)


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_corpus_break_nothing(target: str) -> None:
    rounds = 40 if target == "package" else 400
    fuzz(target, rounds=rounds * DEEP, seed=1)


def test_the_corpus_belongs_to_the_targets() -> None:
    kept = {path.name.partition("--")[0] for path in CORPUS.iterdir()}
    assert kept == set(TARGETS)


@given(value=values)
def test_any_value_of_the_data_model_comes_back(value: object) -> None:
    if cbor.find_foreign(value) is None:
        assert cbor.decode(cbor.encode(value)) == value
    else:
        with pytest.raises(NotCanonical):
            cbor.encode(value)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_the_one_form_or_refused(data: bytes) -> None:
    for target in ("cbor", "sigs", "grants", "manifest", "header"):
        assert survives(target, data)


@given(path=st.text(max_size=30) | st.from_regex(r"[./\\a\x00]{1,8}", fullmatch=True))
def test_a_path_that_passes_stays_below_its_root(path: str) -> None:
    try:
        check_path(path)
    except BadPath:
        return
    joined = os.path.normpath(os.path.join("/root/of/it", path))
    assert joined == f"/root/of/it/{path}"
    assert os.path.relpath(joined, "/root/of/it").split("/") == path.split("/")


digests = st.binary(min_size=32, max_size=32)
words = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)


@st.composite
def manifest_values(draw: st.DrawFn) -> Manifest:
    paths = sorted(draw(st.sets(st.from_regex(r"[a-z]{1,3}(/[0-9]{1,3})?", fullmatch=True))))
    paths = [
        path for path in paths if "/" in path or not any(p.startswith(path + "/") for p in paths)
    ]
    files: list[FileEntry] = []
    offset = 0
    for path in paths:
        size = draw(st.integers(0, 2**40))
        files.append(FileEntry(path=path, size=size, offset=offset, sha256=draw(digests)))
        offset += size
    ciphertext_size = manifests.compute_ciphertext_size(offset)
    begin = draw(st.integers(0, 2**40))
    return Manifest(
        package_id=draw(st.binary(min_size=16, max_size=16)),
        name=draw(words),
        version="1.0.0-rc.1+build",
        seq=draw(st.integers(1, 2**64 - 1)),
        created=draw(st.integers(0, 2**40)),
        not_before=begin,
        not_after=draw(st.sampled_from([0, begin, begin + 1])),
        target=Target(fleets=tuple(draw(st.lists(words, max_size=3))), selector=draw(st.text())),
        min_agent=draw(st.sampled_from(["", "1.2.3"])),
        policy=draw(st.sampled_from([{}, {"at_rest": "plain"}, {"at_rest": "sealed"}])),
        provenance=draw(st.dictionaries(st.text(), leaves, max_size=4)),
        files=tuple(files),
        payload=Payload(size=offset, ciphertext_size=ciphertext_size, sha256=draw(digests)),
    )


@FEW
@given(manifest=manifest_values(), place=st.integers(0), bit=st.integers(0, 7))
def test_any_manifest_comes_back_and_has_one_form(manifest: Manifest, place: int, bit: int) -> None:
    encoded = manifests.encode(manifest)
    assert manifests.decode(encoded) == manifest
    changed = bytearray(encoded)
    changed[place % len(changed)] ^= 1 << bit
    assert survives("manifest", bytes(changed))


@FEW
@given(dek=digests, digest=digests, exp=st.integers(0, 2**64 - 1), other=st.integers(0, 2**64 - 1))
def test_a_grant_opens_for_its_package_and_expiry_only(
    dek: bytes, digest: bytes, exp: int, other: int
) -> None:
    public = RECIPIENT.public_key()
    sealed = grants.seal_grant(dek, recipient=public, manifest_digest=digest, exp=exp)
    given_ = {"recipient": RECIPIENT, "manifest_digest": digest}
    assert grants.open_grant(sealed, exp=exp, **given_) == dek
    if other != exp:
        with pytest.raises(GrantRefused):
            grants.open_grant(sealed, exp=other, **given_)


def test_any_piece_of_a_package_is_refused(forge: Forge) -> None:
    forge.content = b"small"
    forge.build()
    whole = forge.path.read_bytes()
    for kept in range(0, len(whole), 1 if DEEP > 1 else 7):
        forge.path.write_bytes(whole[:kept])
        assert refusal(forge) in ("not-a-package", "truncated")
