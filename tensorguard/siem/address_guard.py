"""Which addresses the platform may be made to talk to by those who may configure it.

A name is resolved here, every address that it stands for is checked, and the connection goes to one
of exactly those addresses: a name that changes between check and use changes nothing. That is done
again for each connection.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from tensorguard.siem.errors import AddressRefused, BadSink

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
MAX_ADDRESSES: Final = 16
# Of their own: a resolver that hangs must hold up nobody but those who wait for it.
_THREADS: Final = ThreadPoolExecutor(64, thread_name_prefix="sink-resolver")
# What carries an IPv4 address in its last bits, and may be led there: translated by a gateway (RFC
# 6052, RFC 2765 §2.1) or, of old, meant as that address (RFC 4291 §2.5.5.1).
_CARRY_IPV4: Final = tuple(map(ip_network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")))
# https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry, as far
# as not every Python knows it; site-local addresses, which may be routed still (RFC 3879).
_NOT_PUBLIC: Final = tuple(
    map(
        ip_network,
        (
            *("192.0.0.0/24", "192.88.99.0/24"),
            *("64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16", "fec0::/10"),
        ),
    )
)
METADATA: Final = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # of most clouds
            "fd00:ec2::254",  # AWS
            "169.254.170.2",  # AWS, of containers
            "169.254.170.23",
            "fd00:ec2::23",
            "fd20:ce::254",  # Google
            "168.63.129.16",  # Azure, which is public by its number
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
        ),
    )
)
"""Where a cloud hands its machines their credentials. No setting allows these."""


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver. Raises: OSError."""
    loop = asyncio.get_running_loop()
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await loop.run_in_executor(_THREADS, ask)
    return [str(address[0]) for *_, address in found]


class AddressGuard:
    """Lets public addresses pass, and those of networks that the settings allow."""

    def __init__(self, allowed: Iterable[Network] = (), *, resolve: Resolve = resolve_host) -> None:
        self._allowed = tuple(allowed)
        self._resolve = resolve

    async def pin(self, host: str, port: int) -> list[str]:
        """Return the addresses of `host`; one that is not allowed refuses all of them.

        Raises: AddressRefused; OSError where the name cannot be resolved.
        """
        found = list(dict.fromkeys(await self._resolve(host, port)))[:MAX_ADDRESSES]
        if not found:
            raise OSError(f"{host} has no address")
        for text in found:
            self._check(host, text)
        return found

    def _check(self, host: str, text: str) -> None:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            raise AddressRefused(f"{host} stands for {text[:60]!r}, which is no address") from None
        meant = _meant_by(address)
        if any(inner in METADATA for inner in meant):
            raise AddressRefused(
                f"{host} stands for {text}, where clouds keep their machines' credentials",
                hint="Name another host: this address is never called.",
            )
        if any(address in network for network in self._allowed):
            return
        for inner in meant:
            if any(inner in network for network in self._allowed):
                continue
            if not _is_public(inner):
                raise AddressRefused(f"{host} stands for {text}, which is not a public address")


def _is_public(address: Address) -> bool:
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def _meant_by(address: Address) -> list[Address]:
    """The address itself and those of IPv4 that it carries within."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if any(address in network for network in _CARRY_IPV4):
        return [IPv4Address(address.packed[-4:])]
    carried: list[Address | None] = [address, address.sixtofour]
    carried += list(address.teredo or ())
    return [one for one in carried if one is not None]


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return networks that stand with commas, as in `10.1.0.0/16,fd00::/8`. Raises: BadSink."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadSink(f"TG_SINK_NETWORKS: {error}") from None
