"""Who counts as a second person: another human than whoever may be behind the request.

An account stands for everybody who could have used it: its user, whoever made it or reset its
password or second factor within a day, and for an API key whoever made the key. Two accounts are
two persons when they have nobody in common.
"""

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.errors import Denied
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.second_factor import PersonRequired
from tensorguard.store.tables import api_keys, users

WARY_FOR: Final = timedelta(hours=24)


class NotASecondPerson(Denied):
    """The decider is, or may be, the one who asked."""

    code = "not-a-second-person"
    hint = "Let another person decide, whose account the requester did not make or reset today."


class MayNotDecide(Denied):
    """The decider's role could not have asked for this."""

    code = "may-not-decide"
    hint = "Let somebody decide whose role holds the permission."


async def find_objection(
    session: AsyncSession,
    *,
    by: Caller,
    requested_by: str,
    permission: Permission,
    now: datetime,
    behind: dict[str, set[str]] | None = None,
) -> Denied | None:
    """Return why `by` may not decide what `requested_by` asked for; None if they may.

    Whether they have stepped up is not looked at: they can do that at any time. `behind` remembers
    who is behind whom, for many questions at the same `now`.
    """
    if by.user_id is None or by.session_sha256 is None:
        return PersonRequired("only a person who has signed in may decide, not an API key")
    for needed in (Permission.APPROVALS_DECIDE, permission):
        if not by.may(needed):
            return MayNotDecide(f"the role {by.role} lacks the permission {needed}")
    if by.actor.id == requested_by:
        return NotASecondPerson("you have asked for this yourself")
    behind = {} if behind is None else behind
    for actor_id in (requested_by, by.actor.id):
        if actor_id not in behind:
            behind[actor_id] = await find_persons_behind(session, actor_id, now=now)
    behind_request, behind_decider = behind[requested_by], behind[by.actor.id]
    if by.actor.id in behind_request:
        return NotASecondPerson(
            "the request came from an API key that you made, or from an account that you made or"
            " reset in the last 24 hours"
        )
    if requested_by in behind_decider:
        return NotASecondPerson(
            "the requester made your account, or reset its password or second factor, in the last"
            " 24 hours"
        )
    if behind_request & behind_decider:
        return NotASecondPerson(
            "the same person made or reset both your account and the requester's in the last"
            " 24 hours, or made the API key that asked"
        )
    return None


async def find_persons_behind(session: AsyncSession, actor_id: str, *, now: datetime) -> set[str]:
    """Return the ids of the user or API key itself and of all who could have used it.

    Whoever works on the platform's machine is not one of its users and not among them.
    """
    rows = await session.execute(_BEHIND, {"actor": actor_id, "since": now - WARY_FOR})
    return {row.id for row in rows}


def _controls() -> sa.Select[tuple[str, str]]:
    """Select who (`maker`) could have used which account or key (`account`)."""
    user, key = users.c, api_keys.c
    since = sa.bindparam("since", type_=sa.DateTime(timezone=True))
    pairs = [
        sa.select(sa.cast(key.id, sa.Text).label("account"), key.created_by.label("maker")),
        sa.select(sa.cast(user.id, sa.Text), user.created_by).where(user.created_at > since),
        sa.select(sa.cast(user.id, sa.Text), user.password_reset_by).where(
            user.password_changed_at > since
        ),
        sa.select(sa.cast(user.id, sa.Text), user.totp_reset_by).where(user.totp_reset_at > since),
    ]
    return sa.union_all(*pairs).subquery("controls").select()


def _behind() -> sa.Select[tuple[str]]:
    controls = _controls().subquery("controls")
    behind = sa.select(sa.bindparam("actor", type_=sa.Text).label("id")).cte(
        "behind", recursive=True
    )
    # Only accounts and keys: 'command-line' and 'platform' made many, and are nobody's account.
    known = sa.union_all(
        sa.select(sa.cast(users.c.id, sa.Text).label("id")),
        sa.select(sa.cast(api_keys.c.id, sa.Text)),
    ).subquery("known")
    step = (
        sa.select(controls.c.maker)
        .join(behind, behind.c.id == controls.c.account)
        .join(known, known.c.id == controls.c.maker)
    )
    return sa.select(behind.union(step).c.id)


_BEHIND: Final = _behind()
