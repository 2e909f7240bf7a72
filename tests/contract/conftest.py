"""A platform for the contract tests: the one of the api's own tests."""

from tests.integration.api.conftest import platform as platform
