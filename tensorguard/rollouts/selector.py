"""Selectors over tags: `gpu=true,region in (us-east,us-west),!legacy`, as Kubernetes writes them.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tensorguard.rollouts.errors import BadSelector

MAX_CHARACTERS = 2000
MAX_REQUIREMENTS = 50
_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_TOKEN = re.compile(r"\s*(?:(?P<sign>==|!=|[=!(),])|(?P<word>[A-Za-z0-9._/-]+)|(?P<end>$))")


class Operator(StrEnum):
    """How a requirement judges a key; `NOT_IN` and `ABSENT` hold where the key is missing."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one key; `values` is empty for `EXISTS` and `ABSENT`."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Tell whether the tags meet the condition."""
        value = tags.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.ABSENT:
                return value is None


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; none of them matches every agent."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Tell whether the tags meet every condition."""
        return all(requirement.matches(tags) for requirement in self.requirements)


def parse_selector(text: str) -> Selector:
    """Read a selector; an empty one matches every agent.

    Raises: BadSelector, which names the position.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadSelector(
            f"a selector has at most {MAX_CHARACTERS} characters", position=MAX_CHARACTERS
        )
    reader = _Reader(text)
    requirements: list[Requirement] = []
    if reader.peek() == "":
        return Selector()
    while True:
        requirements.append(_read_requirement(reader))
        if len(requirements) > MAX_REQUIREMENTS:
            raise BadSelector(
                f"a selector has at most {MAX_REQUIREMENTS} conditions", position=reader.position
            )
        if reader.peek() == "":
            return Selector(tuple(requirements))
        reader.expect(",")


class _Reader:
    """Words and signs of a selector, one after the other; the end is the empty text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = 0
        self.position = 0

    def peek(self) -> str:
        return self._match()[0]

    def take(self) -> str:
        token, self.position, self._next = self._match()
        return token

    def expect(self, sign: str) -> None:
        found, start, _ = self._match()
        if found != sign:
            raise BadSelector(f"expected {sign!r}, found {_show(found)}", position=start)
        self.take()

    def take_key(self) -> str:
        token = self.take()
        if not _KEY.fullmatch(token):
            raise BadSelector(f"expected a tag's key, found {_show(token)}", position=self.position)
        return token

    def take_value(self) -> str:
        token, start, _ = self._match()
        if token in (",", ")", ""):  # an empty value is a value
            return ""
        if not _VALUE.fullmatch(token):
            raise BadSelector(f"expected a tag's value, found {_show(token)}", position=start)
        return self.take()

    def _match(self) -> tuple[str, int, int]:
        found = _TOKEN.match(self._text, self._next)
        if found is None:
            rest = self._text[self._next :]
            start = self._next + len(rest) - len(rest.lstrip())
            raise BadSelector(f"{self._text[start]!r} does not belong here", position=start)
        group = found.lastgroup or "end"
        return found.group(group), found.start(group), found.end()


def _read_requirement(reader: _Reader) -> Requirement:
    if reader.peek() == "!":
        reader.take()
        return Requirement(reader.take_key(), Operator.ABSENT)
    key = reader.take_key()
    match reader.peek():
        case "" | ",":
            return Requirement(key, Operator.EXISTS)
        case "=" | "==":
            reader.take()
            return Requirement(key, Operator.IN, (reader.take_value(),))
        case "!=":
            reader.take()
            return Requirement(key, Operator.NOT_IN, (reader.take_value(),))
        case "in" | "notin":
            return Requirement(key, Operator(reader.take()), _read_values(reader))
        case found:
            reader.take()
            raise BadSelector(
                f"expected =, !=, in, notin or a comma after {key!r}, found {_show(found)}",
                position=reader.position,
            )


def _read_values(reader: _Reader) -> tuple[str, ...]:
    reader.expect("(")
    values = [reader.take_value()]
    while reader.peek() == ",":
        reader.take()
        values.append(reader.take_value())
    reader.expect(")")
    return tuple(values)


def _show(token: str) -> str:
    return repr(token[:64]) if token else "the end"
