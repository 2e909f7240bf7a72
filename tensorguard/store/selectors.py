"""Selectors as SQL: the same answer as `Selector.matches`, for a table of agents at once."""

from typing import Any

import sqlalchemy as sa

from tensorguard.rollouts.selector import Operator, Requirement, Selector
from tensorguard.store import tables


def selector_clause(
    selector: Selector, tags: sa.ColumnElement[Any] = tables.agents.c.tags
) -> sa.ColumnElement[bool]:
    """Return the condition on a jsonb column of tags that means what the selector means."""
    clauses = [_requirement_clause(requirement, tags) for requirement in selector.requirements]
    return sa.and_(sa.true(), *clauses)


def _requirement_clause(
    requirement: Requirement, tags: sa.ColumnElement[Any]
) -> sa.ColumnElement[bool]:
    value = tags.op("->>", return_type=sa.Text())(requirement.key)
    match requirement.operator:
        case Operator.IN:
            # NULL IN (…) is NULL, which no WHERE lets pass; NOT around it must not either.
            return sa.func.coalesce(value.in_(requirement.values), sa.false())
        case Operator.NOT_IN:
            return sa.func.coalesce(value.not_in(requirement.values), sa.true())
        case Operator.EXISTS:
            return value.is_not(None)
        case Operator.ABSENT:
            return value.is_(None)
