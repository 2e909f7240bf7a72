"""What carries the messages: amqtt inside the broker, or a NATS server, ours or somebody else's."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tensorguard.cli.supervisor.addresses import Addresses
from tensorguard.cli.supervisor.child import ChildSpec
from tensorguard.cli.supervisor.errors import BadSettings
from tensorguard.cli.supervisor.output import Output

Engine = Literal["embedded", "nats"]
KEYS_FILE = "nats-keys.json"
_FILE = "engine"
_DATA = "TG_NATS_DATA"
_URL, _KEYS, _LOG = "TG_NATS_URL", "TG_NATS_KEYS", "TG_NATS_LOG"
_LIBRARIES = ("nats", "nkeys", "nacl")
_INSTALL = "pip install 'tensorguard-platform[nats]'"


@dataclass(frozen=True)
class GivenNode:
    """A NATS server that somebody else keeps; its log may be out of reach."""

    url: str
    keys: Path
    log: str | None


def find_given_node(environment: Mapping[str, str]) -> GivenNode | None:
    """The node that the environment names, or None to run one. Raises: BadSettings."""
    url, keys = environment.get(_URL), environment.get(_KEYS)
    if not url:
        return None
    if not keys:
        raise BadSettings(
            f"{_URL} is set and {_KEYS} is not.",
            hint=f"Make the keys with 'tensorguard broker nats-keys --out FILE', name them in"
            f" {_KEYS} here and on every node, and run each node with 'tensorguard broker"
            " nats-server', or a server of your own with what 'tensorguard broker nats-config'"
            " prints (docs/nats.md).",
        )
    return GivenNode(url, Path(keys).resolve(), environment.get(_LOG) or None)


def settle_engine(
    directory: Path, wish: Engine | None, given: GivenNode | None, output: Output
) -> Engine:
    """The engine of this run, which is remembered: as asked for, else as it was, else embedded.

    Agents find either at the same address, and send once more what no hub has acknowledged: so
    changing it takes no more than to say so.
    Raises: BadSettings where it cannot run here.
    """
    path = directory / _FILE
    stored = _load(path)
    engine = wish or stored or "embedded"
    if given is not None and engine == "embedded":
        raise BadSettings(
            f"{_URL} is set, and the broker engine is 'embedded'.",
            hint=f"Say --engine nats, or unset {_URL}.",
        )
    if engine == "nats":
        _check_installed(with_server=given is None)
    if stored is not None and engine != stored:
        output.say("engine_changed", level="warning", before=stored, now=engine)
    if engine != stored:
        fresh = path.with_suffix(".fresh")
        fresh.write_text(f"{engine}\n")
        fresh.rename(path)
    return engine


def engine_settings(
    engine: Engine, given: GivenNode | None, directory: Path, addresses: Addresses
) -> dict[str, str]:
    """What the services have to know of it, as environment variables; makes keys once."""
    if engine == "embedded":
        return {"TG_BROKER_ENGINE": engine}
    if given is not None:
        settings = {"TG_BROKER_ENGINE": engine, _URL: given.url, _KEYS: str(given.keys)}
        return settings | ({_LOG: given.log} if given.log else {})
    from broker.nats.keys import CalloutKeys  # the extra `nats`

    keys, data = directory / KEYS_FILE, directory / "nats"
    if not keys.exists():  # in one step: a start that was killed here leaves no half of a file
        fresh = keys.with_suffix(".fresh")
        fresh.unlink(missing_ok=True)
        CalloutKeys.generate().store(fresh)
        fresh.rename(keys)
    return {
        "TG_BROKER_ENGINE": engine,
        _URL: f"tls://{addresses.nats}",
        _KEYS: str(keys),
        _LOG: str(data / "nats.log"),
        _DATA: str(data),
        "TG_NATS_LISTEN": addresses.nats,
    }


def node_service(environment: Mapping[str, str]) -> list[ChildSpec]:
    """The keeper of a NATS server of ours, if these settings say so."""
    if environment.get("TG_BROKER_ENGINE") != "nats" or _DATA not in environment:
        return []
    return [
        ChildSpec(
            name="nats",
            command=(sys.executable, "-m", "tensorguard.cli", "broker", "nats-server"),
            environment={**environment, "PYTHONUNBUFFERED": "1"},
        )
    ]


def _load(path: Path) -> Engine | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        # An earlier version has run here, which knew one engine only.
        return "embedded" if (path.parent / "addresses.json").exists() else None
    if text == "nats":
        return "nats"
    if text == "embedded":
        return "embedded"
    raise BadSettings(f"{path} cannot be read.", hint=f"Remove {path} and say --engine.")


def _check_installed(*, with_server: bool) -> None:
    missing = [library for library in _LIBRARIES if find_spec(library) is None]
    if missing:
        raise BadSettings(f"--engine nats needs {missing[0]}, not installed.", hint=_INSTALL)
    if with_server:
        from broker.nats.errors import NatsServerMissing
        from broker.nats.server import find_program

        program = os.environ.get("TG_NATS_SERVER")
        try:
            find_program(Path(program) if program else None)
        except NatsServerMissing as error:
            raise BadSettings(
                f"--engine nats: {error.message}.",
                hint=f"{_INSTALL}, or name a server that runs elsewhere in {_URL}.",
            ) from None
