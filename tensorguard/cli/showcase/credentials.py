"""What the demo signs in with: one file that nobody else can read."""

import asyncio
from pathlib import Path

import httpx
import msgspec

from tensorguard.cli.showcase.programs import ask
from tensorguard.services.platform import ADMIN_EMAIL
from tensorguard.vault.private_file import read_private, replace_private

FILE = "demo-credentials"
_DEMO_EMAIL = "demo@tensorguard.local"
_LIMIT_BYTES = 4096


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """A user for people, an API key for the demo itself."""

    email: str
    password: str
    api_key: str = ""

    def __repr__(self) -> str:
        return f"Credentials(email={self.email!r}, password=<hidden>, api_key=<hidden>)"


def keep(data_directory: Path, credentials: Credentials) -> None:
    """Write the file."""
    content = msgspec.json.format(msgspec.json.encode(credentials), indent=2)
    replace_private(data_directory / FILE, content)


def keep_first_password(data_directory: Path, password: str | None) -> None:
    """Keep the administrator's first password, which is told only once."""
    if password is not None:
        keep(data_directory, Credentials(email=ADMIN_EMAIL, password=password))


async def settle(data_directory: Path, url: str) -> Credentials:
    """Return credentials that work: those of the last run, or new ones made as an operator would.

    On a platform that was not set up by the demo, whose administrator's password is somebody's
    own, the demo gets a user of its own. Raises: DemoFailed.
    """
    known = _find(data_directory)
    if known is None:
        known = await _make_user(data_directory)
        keep(data_directory, known)
    if not await _is_good(url, known.api_key):
        made = await ask(
            "admin", "api-key", "create", "--name", "demo", "--role", "admin",
            "--data-dir", str(data_directory),
        )  # fmt: skip
        known = msgspec.structs.replace(known, api_key=str(made["key"]))
        keep(data_directory, known)
    return known


def _find(data_directory: Path) -> Credentials | None:
    path = data_directory / FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_private(path, _LIMIT_BYTES), type=Credentials)
    except msgspec.MsgspecError:
        return None


async def _make_user(data_directory: Path) -> Credentials:
    where = ("--email", _DEMO_EMAIL, "--data-dir", str(data_directory))
    try:
        made = await ask("admin", "user", "create", "--role", "admin", "--name", "Demo", *where)
    except Exception:  # it exists, and its password is gone with the file
        made = await ask("admin", "reset-password", *where)
    return Credentials(email=_DEMO_EMAIL, password=str(made["password"]))


async def _is_good(url: str, api_key: str) -> bool:
    if not api_key:
        return False
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.get("/api/v1/session", headers={"Authorization": f"Bearer {api_key}"})
    return answer.status_code == 200
