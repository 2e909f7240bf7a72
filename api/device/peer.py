"""Where a device's request comes from: its socket, or what a proxy says that may be believed."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.requests import Request

from api.settings import ApiSettings

UNKNOWN = "unknown"


def peer_address(request: Request, settings: ApiSettings) -> str:
    """Return the address of whoever asks; `unknown` is in no network.

    X-Forwarded-For counts behind a proxy only, and only from a trusted one: each proxy appends who
    asked it, so the last address that is not a trusted proxy's is the first that may be a lie.
    """
    socket_peer = request.client.host if request.client else UNKNOWN
    if not settings.behind_proxy or not _is_trusted(socket_peer, settings):
        return socket_peer
    said = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    hops = [hop.strip() for hop in said if hop.strip()]
    for hop in reversed(hops):
        address = _parse(hop)
        if address is None:
            return UNKNOWN
        if not _is_trusted(hop, settings):
            return str(address)
    return socket_peer


def _is_trusted(address: str, settings: ApiSettings) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(
        parsed in ip_network(network.strip(), strict=False)
        for network in settings.trusted_proxies.split(",")
        if network.strip()
    )


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed if mapped is None else mapped
