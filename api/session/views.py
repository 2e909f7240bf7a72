"""Bodies and answers of signing in."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import SecretStr, StringConstraints

from api.users.views import Email, UserView
from api.views import Body, View
from tensorguard.services.people.access import ROLE_PERMISSIONS, Caller, Permission, Role
from tensorguard.services.people.users import MAX_PASSWORD_LENGTH, SecondFactor, User

_Password = Annotated[SecretStr, StringConstraints(min_length=1, max_length=MAX_PASSWORD_LENGTH)]


class SignIn(Body):
    """Proof of being a user."""

    email: Email
    password: _Password


class SessionView(View):
    """Who is signed in, and what their role permits."""

    kind: str
    id: UUID
    role: Role
    permissions: list[Permission]
    user: UserView | None = None
    expires_at: datetime | None = None
    second_factor: SecondFactor = "none"
    stepped_up_until: datetime | None = None


class EnrolSecondFactor(Body):
    """Proof that it is the user who sets up the second factor."""

    password: _Password


class ShowCode(Body):
    """The present code of the user's authenticator app."""

    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]


class EnrolmentView(View):
    """The secret for the app, as text and as the URI of a QR code: shown once."""

    secret: str
    uri: str


class SteppedUpView(View):
    """Until when the session may do what takes a second factor."""

    stepped_up_until: datetime


def session_view(
    caller: Caller,
    user: User | None,
    *,
    expires_at: datetime | None = None,
    stepped_up_until: datetime | None = None,
) -> SessionView:
    """Return the caller as they see themselves."""
    return SessionView(
        kind=caller.actor.kind,
        id=UUID(caller.actor.id),
        role=caller.role,
        permissions=sorted(ROLE_PERMISSIONS[caller.role]),
        user=None if user is None else UserView.model_validate(user),
        expires_at=expires_at,
        second_factor="none" if user is None else user.second_factor,
        stepped_up_until=stepped_up_until,
    )
