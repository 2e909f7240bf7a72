"""`/api/v1/users`: people, their roles and their passwords."""

from typing import Annotated
from uuid import UUID

from fastapi import Header, Response
from pydantic import SecretStr

from api.access import Requires
from api.etags import content_etag, require_match
from api.limits import limits
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Now, Session, new_router
from api.users.views import PasswordReset, UserCreate, UserUpdate, UserView, UserWithPassword
from tensorguard.services.people import second_factor, users
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.passwords import generate_password

router = new_router("/api/v1/users", "users")
Admin = Annotated[Caller, Requires(Permission.USERS_ADMIN)]


@router.get("")
async def list_users(
    caller: Admin, session: Session, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[UserView]:
    """List users in the order in which they were made."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await users.list_users(session, after=after, limit=limit + 1)
    return page_of(rows, limit, view=UserView.model_validate, key=lambda user: (str(user.id),))


@router.post("", status_code=201)
@limits(replayable=False)
async def create_user(
    caller: Admin, context: Context, session: Session, body: UserCreate, now: Now
) -> UserWithPassword:
    """Add a user."""
    password, shown = _password(body.password)
    hashed = await context.passwords.hash(password)
    user = await users.create_user(
        session,
        email=body.email,
        name=body.name,
        role=body.role,
        password_hash=hashed,
        by=caller.actor,
        now=now,
    )
    return UserWithPassword(**UserView.model_validate(user).model_dump(), password=shown)


@router.get("/{user_id}")
async def get_user(caller: Admin, session: Session, response: Response, user_id: UUID) -> UserView:
    """Return one user."""
    view = UserView.model_validate(await users.get_user(session, user_id))
    response.headers["ETag"] = content_etag(view)
    return view


@router.patch("/{user_id}")
async def change_role(
    caller: Admin,
    session: Session,
    response: Response,
    user_id: UUID,
    body: UserUpdate,
    now: Now,
    if_match: Annotated[str | None, Header()] = None,
) -> UserView:
    """Give a user another role."""
    current = UserView.model_validate(await users.get_user(session, user_id, lock=True))
    require_match(if_match, content_etag(current))
    user = await users.change_role(session, user_id, body.role, by=caller.actor, now=now)
    view = UserView.model_validate(user)
    response.headers["ETag"] = content_etag(view)
    return view


@router.post("/{user_id}/disable")
async def disable_user(caller: Admin, session: Session, user_id: UUID, now: Now) -> UserView:
    """End a user's sessions for good."""
    return UserView.model_validate(
        await users.disable_user(session, user_id, by=caller.actor, now=now)
    )


@router.post("/{user_id}/reset-password")
@limits(replayable=False)
async def reset_password(
    caller: Admin, context: Context, session: Session, user_id: UUID, body: PasswordReset, now: Now
) -> UserWithPassword:
    """Set a user's password and end their sessions."""
    password, shown = _password(body.password)
    hashed = await context.passwords.hash(password)
    user = await users.reset_password(
        session, user_id, password_hash=hashed, by=caller.actor, now=now
    )
    return UserWithPassword(**UserView.model_validate(user).model_dump(), password=shown)


@router.delete("/{user_id}/second-factor")
async def reset_second_factor(caller: Admin, session: Session, user_id: UUID, now: Now) -> UserView:
    """Take away the second factor that a user has lost; for a day the caller is no second person
    to them."""
    return UserView.model_validate(
        await second_factor.reset(session, user_id, by=caller.actor, now=now)
    )


def _password(given: SecretStr | None) -> tuple[str, str | None]:
    """Return the password, and what of it is to be shown: only one that was made here."""
    if given is not None:
        return given.get_secret_value(), None
    made = generate_password()
    return made, made
