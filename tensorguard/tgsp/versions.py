"""Semantic versions: their form and their order (semver.org 2.0.0)."""

import re

# The expression that semver.org suggests, anchored so that a final newline is not overlooked.
PATTERN = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?\Z"
)
MAX_LENGTH = 256
_VERSION = re.compile(PATTERN)


def is_version(text: str) -> bool:
    """Whether a text is a semantic version of at most `MAX_LENGTH` characters."""
    return len(text) <= MAX_LENGTH and _VERSION.match(text) is not None


def is_older(version: str, than: str) -> bool:
    """Whether one version precedes another (semver.org 2.0.0 section 11).

    Raises:
        ValueError: one of the two is not a semantic version.
    """
    return _precedence(version) < _precedence(than)


def _precedence(text: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    match = _VERSION.match(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise ValueError(f"{text!r} is not a semantic version")
    core = tuple(int(part) for part in match.group(1, 2, 3))
    prerelease = match[4].split(".") if match[4] else []
    # A release follows all its pre-releases; numbers precede words and compare as numbers.
    parts = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in prerelease
    )
    return core, not prerelease, parts
