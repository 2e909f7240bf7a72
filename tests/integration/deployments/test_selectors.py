"""Selectors mean the same in SQL as in memory."""

import string
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from tensorguard.rollouts.selector import Operator, Requirement, Selector, parse_selector
from tensorguard.store.selectors import selector_clause
from tensorguard.store.url import driver_url
from tests.postgres import Database

# Few words, so that keys and values meet; among them what SQL and JSON could stumble over.
KEYS = st.sampled_from(["gpu", "in", "a.b", "a/b", "A", "null", "0"])
VALUES = st.sampled_from(["", "true", "null", "x", "X", "0", "notin"]) | st.text(
    string.ascii_letters, min_size=1, max_size=3
)
TAGS = st.dictionaries(KEYS, VALUES, max_size=4)
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        KEYS,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(VALUES, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.EXISTS, Operator.ABSENT])),
)
SELECTORS = st.lists(REQUIREMENTS, max_size=3).map(lambda found: Selector(tuple(found)))


@pytest.fixture(scope="module")
def connection(database: Database) -> Iterator[sa.Connection]:
    engine = sa.create_engine(driver_url(database.app_url))
    with engine.connect() as made:
        yield made
    engine.dispose()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(selector=SELECTORS, tags=st.lists(TAGS, min_size=1, max_size=8))
def test_sql_and_memory_agree(
    connection: sa.Connection, selector: Selector, tags: list[dict[str, str]]
) -> None:
    column = sa.column("tags", JSONB)
    rows = sa.values(sa.column("place", sa.Integer), column, name="agents").data(
        list(enumerate(tags))
    )
    query = sa.select(rows.c.place).where(selector_clause(selector, rows.c.tags))
    found = set(connection.execute(query).scalars())
    assert found == {place for place, one in enumerate(tags) if selector.matches(one)}


@given(selector=SELECTORS)
def test_what_is_written_down_reads_back(selector: Selector) -> None:
    assert parse_selector(_text(selector)) == selector


def _text(selector: Selector) -> str:
    parts = {
        Operator.EXISTS: "{0}",
        Operator.ABSENT: "!{0}",
        Operator.IN: "{0} in ({1})",
        Operator.NOT_IN: "{0} notin ({1})",
    }
    return ",".join(
        parts[one.operator].format(one.key, ",".join(one.values)) for one in selector.requirements
    )
