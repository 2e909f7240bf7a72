"""People who have signed in, with an authenticator app and without."""

import base64
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from tensorguard.services.evidence.event import Actor
from tensorguard.services.people.access import Role
from tensorguard.services.people.totp import STEP_S, compute_code, step_at
from tensorguard.services.people.users import create_user
from tests.integration.api.clients import Api

SESSION = "/api/v1/session"
FACTOR = f"{SESSION}/second-factor"
# Two accounts that a third one has just made are no two persons; whoever owns the machine is none.
MACHINE = Actor("system", "command-line")


@dataclass
class Person:
    """A browser that has signed in, and the app of whoever sits before it."""

    api: Api
    client: httpx.AsyncClient
    id: str
    email: str
    password: str
    secret: bytes = b""

    def code(self, *, steps: int = 0) -> str:
        """The code that the app shows now, or so many steps later."""
        return compute_code(self.secret, step_at(self.api.context.clock()) + steps)

    async def post(self, url: str, **body: Any) -> httpx.Response:
        return await self.client.post(url, json=body)

    async def enrol(self) -> httpx.Response:
        """Scan the QR code: a new secret, that is not confirmed yet."""
        answer = await self.post(FACTOR, password=self.password)
        if answer.status_code == 201:
            text = answer.json()["secret"]
            self.secret = base64.b32decode(text + "=" * (-len(text) % 8))
        return answer

    async def activate(self) -> None:
        """Have a second factor; the session is stepped up by that."""
        assert (await self.enrol()).status_code == 201
        answer = await self.post(f"{FACTOR}/confirm", code=self.code())
        assert answer.status_code == 200, answer.text

    async def step_up(self, code: str) -> httpx.Response:
        return await self.post(f"{SESSION}/step-up", code=code)

    async def remove(self, code: str) -> httpx.Response:
        return await self.client.request("DELETE", FACTOR, json={"code": code})

    async def session(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.client.get(SESSION)).json()
        return answer


async def new_person(
    api: Api, role: Role = Role.ADMIN, *, by: Actor = MACHINE, at: datetime | None = None
) -> Person:
    """Somebody with a session of their own, whom `by` has made."""
    email, password = f"{secrets.token_hex(8)}@example.org", secrets.token_urlsafe(16)
    hashed = await api.context.passwords.hash(password)
    async with api.context.sessions.begin() as session:
        user = await create_user(
            session,
            email=email,
            name="Ada",
            role=role,
            password_hash=hashed,
            by=by,
            now=at or api.context.clock(),
        )
    client = await api.client()
    answer = await client.post(SESSION, json={"email": email, "password": password})
    assert answer.status_code == 201, answer.text
    return Person(api, client, str(user.id), email, password)


async def second_person(api: Api, role: Role = Role.ADMIN) -> Person:
    """Somebody who may approve what others ask for: with a second factor, and stepped up."""
    person = await new_person(api, role)
    await person.activate()
    return person


class MovingClock:
    """A clock that stands still, in the middle of a code's 30 seconds, until a test moves it."""

    def __init__(self, start: datetime) -> None:
        seconds = int(start.timestamp()) // STEP_S * STEP_S + STEP_S // 2
        self.now = datetime.fromtimestamp(seconds, start.tzinfo)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)
