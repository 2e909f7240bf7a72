"""`tensorguard admin`: users and secrets, on the platform's own machine, without the api."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.cli.admissions import app as agents
from tensorguard.cli.database import OPERATOR, DataDir, Json, find_database_url, in_transaction
from tensorguard.cli.publisher import app as publisher
from tensorguard.cli.revocation import app as revocation
from tensorguard.services.people import api_keys, second_factor, users
from tensorguard.services.people.access import Role
from tensorguard.services.people.passwords import generate_password, hash_password
from tensorguard.services.platform import ADMIN_EMAIL

app = typer.Typer(no_args_is_help=True, help="Manage users and secrets on the platform's machine.")
api_key = typer.Typer(no_args_is_help=True, help="API keys, with which programs prove themselves.")
user = typer.Typer(no_args_is_help=True, help="People who may sign in.")
app.add_typer(api_key, name="api-key")
app.add_typer(user, name="user")
app.add_typer(publisher, name="publisher")
app.add_typer(agents, name="agents")
app.add_typer(revocation, name="revoke")

T = TypeVar("T")
AskPassword = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read the password from standard input; else make one."),
]


@api_key.command("create")
def create_api_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    ttl_days: Annotated[
        int | None, typer.Option(min=1, max=1825, help="When it ends; never, unless given.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make an API key and print it: the only time that it can be seen."""
    now = _now()
    expires_at = None if ttl_days is None else now + timedelta(days=ttl_days)

    async def work(session: AsyncSession) -> api_keys.NewApiKey:
        return await api_keys.create_api_key(
            session, name=name, role=role, by=OPERATOR, now=now, expires_at=expires_at
        )

    made = _run(data_dir, work)
    _print({"id": str(made.id), "key": made.key}, made.key, as_json=as_json)


@api_key.command("revoke")
def revoke_api_key(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", help="The key's id.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End an API key for good."""

    async def work(session: AsyncSession) -> None:
        await api_keys.revoke_api_key(session, key_id, by=OPERATOR, now=_now())

    _run(data_dir, work)
    _print({"id": str(key_id), "revoked": True}, f"revoked {key_id}", as_json=as_json)


@user.command("create")
def create_user(
    email: Annotated[str, typer.Option(help="With which they sign in.")],
    role: Annotated[Role, typer.Option(help="What they may do.")],
    name: Annotated[str, typer.Option(help="What they are called.")] = "",
    password_stdin: AskPassword = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add a user."""
    password, shown = _password(password_stdin)

    async def work(session: AsyncSession) -> users.User:
        return await users.create_user(
            session,
            email=email,
            name=name or email,
            role=role,
            password_hash=hash_password(password),
            by=OPERATOR,
            now=_now(),
        )

    made = _run(data_dir, work)
    _print_password(made, shown, as_json=as_json)


@app.command("reset-password")
def reset_password(
    email: Annotated[str, typer.Option(help="Whose password.")] = ADMIN_EMAIL,
    password_stdin: AskPassword = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set a user's password and end their sessions."""
    password, shown = _password(password_stdin)

    async def work(session: AsyncSession) -> users.User:
        found = await users.get_user_by_email(session, email)
        hashed = hash_password(password)
        return await users.reset_password(
            session, found.id, password_hash=hashed, by=OPERATOR, now=_now()
        )

    _print_password(_run(data_dir, work), shown, as_json=as_json)


@app.command("reset-second-factor")
def reset_second_factor(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Who has lost it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take away the second factor of a user; they set up another one with their password."""

    async def work(session: AsyncSession) -> users.User:
        found = await users.get_user_by_email(session, email)
        return await second_factor.reset(session, found.id, by=OPERATOR, now=_now())

    reset = _run(data_dir, work)
    facts = {"id": str(reset.id), "email": reset.email, "second_factor": reset.second_factor}
    _print(facts, f"{reset.email}  no second factor", as_json=as_json)


def _run(data_dir: Path | None, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    return asyncio.run(in_transaction(find_database_url(data_dir), work))


def _now() -> datetime:
    return datetime.now(UTC)


def _password(from_stdin: bool) -> tuple[str, str | None]:
    """Return the password, and what of it is to be printed: only one that was made here."""
    if not from_stdin:
        made = generate_password()
        return made, made
    given = sys.stdin.readline().rstrip("\r\n")
    users.check_password(given)
    return given, None


def _print_password(user: users.User, shown: str | None, *, as_json: bool) -> None:
    facts: dict[str, Any] = {"id": str(user.id), "email": user.email, "role": user.role}
    if shown is not None:
        facts["password"] = shown
    _print(facts, f"{user.email}  {shown or '(the password that was given)'}", as_json=as_json)


def _print(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(facts) if as_json else text)
