"""Bodies and answers about users."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import SecretStr, StringConstraints

from api.views import Body, Line, View
from tensorguard.services.people.access import Role
from tensorguard.services.people.users import (
    EMAIL_PATTERN,
    MAX_PASSWORD_LENGTH,
    MIN_PASSWORD_LENGTH,
    SecondFactor,
)

Email = Annotated[
    str,
    StringConstraints(
        min_length=3,
        max_length=254,
        pattern=EMAIL_PATTERN,
    ),
]
Password = Annotated[
    SecretStr,
    StringConstraints(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH),
]


class UserCreate(Body):
    """A new user; without a password one is made and shown once."""

    email: Email
    name: Line
    role: Role
    password: Password | None = None


class UserUpdate(Body):
    """What may change of a user."""

    role: Role


class PasswordReset(Body):
    """A new password; without one, one is made and shown once."""

    password: Password | None = None


class UserView(View):
    """A user."""

    id: UUID
    email: str
    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None
    second_factor: SecondFactor


class UserWithPassword(UserView):
    """A user with the password that was made for them, if one was: it is never shown again."""

    password: str | None = None
