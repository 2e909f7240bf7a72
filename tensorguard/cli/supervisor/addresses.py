"""Where the services listen: chosen at the first start, kept, and refused when taken later."""

import contextlib
import errno
import ipaddress
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

import psutil

from tensorguard.cli.supervisor.errors import BadAddress, BadSettings, PortTaken

LOOPBACK = "127.0.0.1"
DEFAULT_PUBLIC_HOST = "127.0.0.1,localhost"
_DEFAULT_PORTS = {"http": 8080, "device": 8443, "mqtt": 8883, "enroll_mqtt": 8884, "nats": 4222}
_ONLY_HERE = ("http", "nats")
"""On loopback whatever the public host is: people and services of this machine."""
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")


@dataclass(frozen=True)
class Address:
    """A host and a port to listen on; port 0 asks for any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read HOST:PORT, with brackets around an IPv6 host. Raises: BadAddress."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not port.isdecimal() or int(port) > 65535 or not _is_host(host):
            raise BadAddress(f"'{text}' is not an address to listen on.")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def try_to_listen(self) -> int:
        """Listen for a moment and return the port. Raises: OSError."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((self.host, self.port))
            probe.listen(1)
            return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Addresses:
    """What the data directory remembers; text, as in the file and the environment."""

    http: str
    device: str
    mqtt: str
    public_host: str
    enroll_mqtt: str = ""
    """Empty where an earlier version has stored the others: chosen at the next start."""
    nats: str = ""
    """For services, on this machine; empty while no NATS server of ours has run."""

    @property
    def public_name(self) -> str:
        """The first public name, in the form that it has in a URL."""
        name = self.public_host.split(",")[0]
        return f"[{name}]" if ":" in name else name

    def url(self, scheme: str, address: str) -> str:
        """The public URL of an address of ours."""
        return f"{scheme}://{self.public_name}:{Address.parse(address).port}"


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for; None leaves it to what is stored, or to the default."""

    http: str | None = None
    device: str | None = None
    mqtt: str | None = None
    enroll_mqtt: str | None = None
    public_host: str | None = None
    is_http_protected: bool = False
    """A certificate, or a proxy in front, lets the people's listener leave loopback."""
    nats: str | None = None
    not_ours: frozenset[str] = frozenset({"nats"})
    """Where no service of ours listens: taken as they are stored or asked for, and not tried."""


def choose_addresses(stored: Addresses | None, wishes: Wishes) -> tuple[Addresses, list[str]]:
    """Decide where to listen; a second value says what a person should know of the choice.

    A new public host moves what devices connect to off loopback, where nobody else would get.

    Raises: BadAddress, PortTaken naming the holder.
    """
    public_host = wishes.public_host or (stored.public_host if stored else DEFAULT_PUBLIC_HOST)
    _check_public_host(public_host)
    bind = LOOPBACK if all(map(_is_loopback, public_host.split(","))) else "0.0.0.0"  # noqa: S104 - a public name was asked for
    chosen: dict[str, str] = {}
    foreign: dict[str, str] = {}
    notes: list[str] = []
    if stored is not None and bind != LOOPBACK and public_host != stored.public_host:
        stored, notes = _leave_loopback(stored, wishes, bind)
    for name, port in _DEFAULT_PORTS.items():
        wish = getattr(wishes, name) or (getattr(stored, name) if stored else None) or None
        if name in wishes.not_ours:
            foreign[name] = _take(name, wish, port, bind)
            continue
        taken = [Address.parse(text).port for text in chosen.values()]
        if wish is None:
            host = LOOPBACK if name in _ONLY_HERE else bind
            address = _choose_free(Address(host, port), taken)
            if address.port != port:
                notes.append(f"port {port} is taken; {name} uses {address.port} from now on")
        else:
            address = _check(name, Address.parse(wish), taken)
        chosen[name] = str(address)
    if not (wishes.is_http_protected or _is_loopback(Address.parse(chosen["http"]).host)):
        raise BadAddress(
            f"--http {chosen['http']} would speak unencrypted HTTP to the network.",
            hint="Give --tls-cert and --tls-key, or --behind-proxy, or listen on 127.0.0.1.",
        )
    return Addresses(**chosen, **foreign, public_host=public_host), notes


def _take(name: str, wish: str | None, port: int, bind: str) -> str:
    """What is known of an address where somebody else listens, or nobody."""
    if wish is not None:
        return str(Address.parse(wish))
    return "" if name == "nats" else str(Address(bind, port))


def _leave_loopback(stored: Addresses, wishes: Wishes, bind: str) -> tuple[Addresses, list[str]]:
    moved: dict[str, str] = {}
    for name in ("device", "mqtt", "enroll_mqtt"):
        if getattr(wishes, name) is not None or not getattr(stored, name):
            continue
        address = Address.parse(getattr(stored, name))
        if _is_loopback(address.host):
            moved[name] = str(Address(bind, address.port))
    notes = [f"{name} listens on {address} from now on" for name, address in moved.items()]
    return replace(stored, **moved), notes


def load_addresses(path: Path) -> Addresses | None:
    """What an earlier start has stored. Raises: BadSettings."""
    try:
        facts = json.loads(path.read_text())
        known = {"enroll_mqtt": "", "nats": ""} | facts
        return Addresses(**{field.name: str(known[field.name]) for field in fields(Addresses)})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadSettings(
            f"{path} cannot be read: {error}.", hint=f"Remove {path} to choose addresses again."
        ) from error


def store_addresses(path: Path, addresses: Addresses) -> None:
    """Replace the stored addresses in one step."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(asdict(addresses), indent=2) + "\n")
    fresh.rename(path)


def _choose_free(first: Address, taken: list[int]) -> Address:
    for port in range(first.port, min(first.port + 100, 65536)):
        with contextlib.suppress(OSError):
            if port not in taken:
                return Address(first.host, Address(first.host, port).try_to_listen())
    raise PortTaken(f"No port from {first.port} on is free.", hint="Name one on the command line.")


def _check(name: str, wish: Address, taken: list[int]) -> Address:
    if wish.port in taken:
        raise BadAddress(f"{_option(name)} {wish} is used twice.")
    try:
        return Address(wish.host, wish.try_to_listen())
    except PermissionError as error:
        raise BadAddress(
            f"This user may not listen on {wish}.", hint="Choose a port above 1023."
        ) from error
    except OSError as error:
        holder = _find_holder(wish.port) if error.errno == errno.EADDRINUSE else None
        if holder is None:
            raise BadAddress(f"Cannot listen on {wish}: {error.strerror}.") from error
        raise PortTaken(
            f"{wish} is taken by {holder}.",
            hint=f"Stop it, or choose another port with {_option(name)}; devices know the old one.",
        ) from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _find_holder(port: int) -> str | None:
    """Who listens on a port, as far as this user may know; None when nobody does."""
    try:
        connections: Iterable[psutil._common.sconn] = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS
        return "another process"
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port:
            continue
        if connection.pid is None:
            return "a process of another user"
        with contextlib.suppress(psutil.Error):
            command = " ".join(psutil.Process(connection.pid).cmdline())[:120]
            return f"process {connection.pid} ({command})"
    return None


def _check_public_host(text: str) -> None:
    for name in text.split(","):
        if not _is_host(name):
            raise BadAddress(
                f"--public-host '{text}' is not NAME[,IP…].", hint="For example tg.example.org."
            )


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
