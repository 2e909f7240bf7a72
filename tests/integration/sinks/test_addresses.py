"""The address guard holds at every connection; TLS is checked against the name."""

import pytest

from tensorguard.siem.address_guard import AddressGuard, parse_networks
from tensorguard.siem.errors import AddressRefused
from tests.integration.sinks.far_end import NAME, HttpsEnd, serving
from tests.integration.sinks.lab import Lab
from tests.integration.sinks.strict_ends import TOKEN, StrictHec
from tests.integration.sinks.syslog_end import SyslogEnd


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
        "not-an-address",
        "::a00:1",  # of old: 10.0.0.1
        "::ffff:0:a00:1",
        "64:ff9b:1::808:808",
        "fec0::1",
        "192.0.0.8",
        "192.88.99.1",
        "198.18.0.1",
        "240.0.0.1",
        "2001:db8::1",
        "2001:2::1",
        "3fff::1",
        "5f00::1",
        "100::1",
    ],
)
async def test_what_is_not_public_is_refused(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    with pytest.raises(AddressRefused):
        await AddressGuard(resolve=resolve).pin("siem.example", 443)


async def test_networks_of_the_settings_are_allowed_and_no_others() -> None:
    found = "10.1.0.7"

    async def resolve(host: str, port: int) -> list[str]:
        return [found]

    guard = AddressGuard(parse_networks("10.1.0.0/16, fd00::/8"), resolve=resolve)
    assert await guard.pin("siem.example", 443) == ["10.1.0.7"]
    found = "10.2.0.7"
    with pytest.raises(AddressRefused):
        await guard.pin("siem.example", 443)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "168.63.129.16",
        "100.100.100.200",
    ],
)
async def test_no_setting_opens_the_addresses_where_clouds_keep_credentials(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [address]

    guard = AddressGuard(parse_networks("0.0.0.0/0,::/0"), resolve=resolve)
    with pytest.raises(AddressRefused):
        await guard.pin("siem.example", 443)


async def test_public_addresses_pass() -> None:
    public = ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888"]

    async def resolve(host: str, port: int) -> list[str]:
        return public

    assert await AddressGuard(resolve=resolve).pin("siem.example", 443) == public


async def test_a_name_that_moves_to_a_private_address_is_refused_at_the_next_connection(
    lab: Lab,
) -> None:
    strict, inside = StrictHec(), StrictHec()
    tls = lab.authority.server_context()
    async with serving(HttpsEnd(strict, tls)) as end:
        other = HttpsEnd(inside, tls, host="127.0.0.2")
        other.port = end.port
        async with serving(other):
            sink = await lab.sink("splunk", TOKEN, url=f"https://{NAME}:{end.port}")
            await lab.write(5)
            export = lab.export(sink)
            await lab.drain(export)
            lab.names.addresses[NAME] = ["127.0.0.2"]
            await end.stop()  # the connection is gone: it has to make another
            await lab.write(5)
            await lab.drain(export)
            if (await lab.get(sink)).trouble_code == "connection-failed":
                lab.clock.advance(minutes=10)
                await lab.drain(export)
            assert (await lab.get(sink)).trouble_code == "address-refused"
            assert (other.connections, inside.taken) == (0, [])
            lab.names.addresses[NAME] = ["127.0.0.1"]
            await end.start()
            lab.clock.advance(minutes=10)
            await lab.drain(export)
            assert strict.indexes == list(range(11))
            await export.close()


async def test_syslog_is_guarded_as_well(lab: Lab) -> None:
    end = SyslogEnd(lab.authority.server_context())
    await end.start()
    lab.networks = ""
    sink = await lab.sink("syslog", host=NAME, port=end.port)
    await lab.write(5)
    export = lab.export(sink)
    await lab.drain(export)
    assert (await lab.get(sink)).trouble_code == "address-refused"
    await export.close()
    await end.stop()


async def test_a_certificate_of_another_name_or_ca_is_not_believed(lab: Lab) -> None:
    strict = StrictHec()
    async with serving(HttpsEnd(strict, lab.authority.server_context("other.example"))) as end:
        url = f"https://{NAME}:{end.port}"
        wrong_name = await lab.sink("splunk", TOKEN, url=url)
        wrong_ca = await lab.sink("splunk", TOKEN, url=url, ca_pem=None, name="other")
        for sink in (wrong_name, wrong_ca):
            await lab.write(1)
            export = lab.export(sink)
            await lab.drain(export)
            failing = await lab.get(sink)
            assert failing.trouble_code == "tls-failed", failing.trouble_reason
            assert "certificate is not believed" in str(failing.trouble_reason)
            await export.close()
    assert strict.taken == []
