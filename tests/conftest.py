"""One PostgreSQL for a test run, started by the xdist controller or the only process."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.memory import keep_temporary_files_in_memory
from tests.postgres import Database, Server, running_server
from tests.scheduling import Scheduling, in_order

hypothesis.settings.register_profile("normal", max_examples=200, deadline=None)
hypothesis.settings.register_profile("deep", max_examples=5000, deadline=None)
hypothesis.settings.load_profile("deep" if os.environ.get("TG_TEST_DEEP") else "normal")

keep_temporary_files_in_memory()

_SERVER = pytest.StashKey[Server]()
_CLOSING = pytest.StashKey[contextlib.ExitStack]()
_UNIT_TESTS = Path(__file__).parent / "unit"
_ON_UVLOOP = tuple(
    Path(__file__).parent / "integration" / name for name in ("broker", "conformance")
)


def _start_server(config: pytest.Config) -> Server:
    """Start the run's server, once; it ends with the run."""
    if _SERVER not in config.stash:
        config.stash[_CLOSING] = contextlib.ExitStack()
        config.stash[_SERVER] = config.stash[_CLOSING].enter_context(
            running_server(os.environ.get("TG_TEST_DATABASE_URL"))
        )
    return config.stash[_SERVER]


def _only_unit_tests(config: pytest.Config) -> bool:
    """Whether the command line asks for tests that need no database at all."""
    paths = [Path(config.invocation_params.dir, arg.split("::")[0]) for arg in config.args]
    return all(path.resolve().is_relative_to(_UNIT_TESTS) for path in paths)


class _HandDown:
    """In the xdist controller: gives every worker the server, and its tests."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: object) -> None:
        config, workerinput = node.config, node.workerinput  # type: ignore[attr-defined] # xdist has no types for it
        if not _only_unit_tests(config):
            workerinput["postgres"] = dataclasses.asdict(_start_server(config))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: object) -> Scheduling:
        config.option.loadscopereorder = False  # not the units with the most tests first
        return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_HandDown())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = in_order(items)
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in _ON_UVLOOP):
            # The usual alarm is an exception, and uvloop swallows it: such a test hung for ever.
            item.add_marker(pytest.mark.timeout(method="thread"))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _CLOSING in config.stash:
        config.stash[_CLOSING].close()


def server_of_this_run(config: pytest.Config) -> Server:
    """Return the server that the xdist controller has started, or start it."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        return _start_server(config)
    return Server(**workerinput["postgres"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of the package format have recorded: each attack and its refusal."""
    told = sorted(
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "TGSP attack"
    )
    if told:
        terminalreporter.section(f"{len(told)} attacks on TGSP packages, and their refusals")
        terminalreporter.write_line("\n".join(told))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Server:
    """The server of this run."""
    return server_of_this_run(request.config)


@pytest.fixture(scope="session")
def database(postgres: Server) -> Iterator[Database]:
    """This worker's database: for tests that roll back what they did."""
    name = f"tg_test_{secrets.token_hex(4)}"
    yield postgres.clone(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def _seeded(database: Database) -> frozenset[str]:
    return database.filled_tables()


@pytest.fixture
def clean_database(
    postgres: Server, database: Database, _seeded: frozenset[str]
) -> Iterator[Database]:
    """This worker's database: for tests that commit; emptied to what the migrations left."""
    yield database
    if not database.is_cleaned(keep=_seeded):
        postgres.clone(database.name)


@pytest.fixture
def fresh_database(postgres: Server) -> Iterator[Database]:
    """A database of this test alone: for tests that commit rows which nobody may delete."""
    name = f"tg_test_{secrets.token_hex(4)}"
    yield postgres.clone(name)
    postgres.drop(name)
