"""`tensorguard keys` beside a running platform's database."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorguard.cli.main import main
from tests.integration.keys.builders import Vault
from tests.postgres import Database

Keys = Callable[..., Any]


@pytest.fixture
async def fleet(vault: Vault) -> str:
    return await vault.add_fleet("hospital-a")


@pytest.fixture
def keys(
    vault: Vault,
    fresh_database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Keys:
    """The command: what it prints, with `--json` as its lines, or what it says when it fails."""
    monkeypatch.setenv("TG_DATABASE_URL", fresh_database.app_url)
    monkeypatch.setenv("TG_DATA_DIR", str(tmp_path))

    def run(*arguments: str, fails: bool = False) -> Any:
        monkeypatch.setattr(sys, "argv", ["tensorguard", "keys", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert bool(ended.value.code) is fails, printed.out + printed.err
        if fails or "--json" not in arguments:
            return printed.err if fails else printed.out
        lines = printed.out.splitlines()
        return [json.loads(line) for line in lines if line.startswith(("{", "["))]

    return run


def test_keys_are_rotated_rewrapped_and_their_old_versions_disabled(keys: Keys) -> None:
    [[only]] = keys("list", "--json")
    assert (only["reference"].partition(":")[0], only["fleet"]) == ("local", None)
    assert only["secrets"] > 5
    [rotated] = keys("rotate", "--json")
    assert (rotated["key_version"], rotated["misplaced"]) == ("2", only["secrets"])
    assert "key-version-in-use" in keys("disable", only["id"], "1", fails=True)
    lines = keys("rewrap", "--per-second", "1000", "--json")
    assert (lines[-1]["step"], lines[-1]["moved"]) == ("done", only["secrets"])
    keys("disable", only["id"], "1")
    [described] = keys("describe", "--json")
    assert described["versions"] == [
        {"version": "1", "state": "disabled", "secrets": 0},
        {"version": "2", "state": "enabled", "secrets": only["secrets"]},
    ]


def test_a_fleet_s_material_is_wrapped_offline_and_imported(
    keys: Keys, fleet: str, tmp_path: Path
) -> None:
    parameters, wrapped, material = (
        str(tmp_path / name) for name in ("params.json", "wrapped.json", "material.bin")
    )
    keys("add", "--fleet", fleet, "--key", "local")
    keys("import", fleet, "--parameters", parameters)
    keys("wrap-for-import", parameters, "--generate", material, "--out", wrapped)
    assert os.stat(material).st_mode & 0o777 == 0o600
    text = keys("import", fleet, "--wrapped", wrapped, "--expires", "2099-01-01")
    assert "version 2" in text
    assert "key-import-refused" in keys("import", fleet, "--wrapped", wrapped, fails=True)
    [described] = keys("describe", fleet, "--json")
    assert (described["key_version"], described["expires_at"][:4]) == ("2", "2099")
    keys("remove", fleet)
    [listed] = keys("list", "--json")
    assert [one["state"] for one in listed] == ["active", "retired"]


def test_a_bad_name_of_a_key_is_refused_with_the_form_of_a_good_one(keys: Keys) -> None:
    told = keys("migrate", "--to", "aws:alias/kek", fails=True)
    assert "bad-key-reference" in told
    assert "arn:aws:kms" in told
