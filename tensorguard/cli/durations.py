"""Durations as people write them on a command line."""

import re

import typer

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Give seconds from `10s`, `500ms`, `2m`, `1h` or a plain number of seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter("a duration is a number with ms, s, m or h, such as 10s")
    return float(match[1]) * _UNITS[match[2] or ""]
