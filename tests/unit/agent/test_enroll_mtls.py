"""What the command line names for joining by mTLS: files, a URL, a CA or its pin."""

from pathlib import Path
from typing import Any

import pytest

from agent.errors import AgentError, BadEnrollmentUrl, DeviceCertificateUnusable, Unreachable
from agent.runtime.enroll_mtls import DeviceDoor
from tests.manufacturer import MadeDevice, Manufacturer, openssl

PIN = "0f" * 32


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Manufacturer:
    return Manufacturer(tmp_path_factory.mktemp("acme"))


@pytest.fixture(scope="module")
def made(acme: Manufacturer) -> MadeDevice:
    return acme.device()


def open_door(made: MadeDevice, **changes: Any) -> DeviceDoor:
    known: dict[str, Any] = {
        "url": "mqtts://127.0.0.1:9",
        "ca_pin": PIN,
        "ca_file": None,
        "certificate": made.certificate_path,
        "key": made.key_path,
    }
    return DeviceDoor.open(**(known | changes))


def test_a_device_is_named_by_the_digest_of_its_certificate(
    made: MadeDevice, acme: Manufacturer
) -> None:
    door = open_door(made, url="mqtts://[::1]:8884/", ca_pin=None, ca_file=acme.certificate_path)
    assert (door.host, door.port) == ("::1", 8884)
    assert door.certificate_sha256 == made.client_id
    assert door.fetch_anchor().subject.rfc4514_string().startswith("CN=Acme")
    assert open_door(made, ca_pin=PIN.upper()).pin == PIN


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "mqtts://127.0.0.1"},
        {"url": "mqtt://127.0.0.1:1"},
        {"url": "https://127.0.0.1:1"},
        {"url": "mqtts://127.0.0.1:1/path"},
        {"url": "mqtts://user@127.0.0.1:1"},
        {"url": "mqtts://127.0.0.1:70000"},
        {"url": ""},
        {"ca_pin": None},
        {"ca_pin": "zz"},
        {"ca_pin": PIN[1:]},
        {"ca_file": Path("/nowhere")},
        {"ca_pin": None, "ca_file": Path("/nowhere")},
    ],
)
def test_what_is_no_url_or_names_no_ca_is_refused(
    made: MadeDevice, changes: dict[str, Any]
) -> None:
    with pytest.raises(BadEnrollmentUrl):
        open_door(made, **changes)


def test_files_that_are_no_certificate_with_its_key_are_refused(
    made: MadeDevice, acme: Manufacturer, tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.key"
    openssl(
        *("pkey", "-in", made.key_path, "-out", encrypted, "-aes256", "-passout", "pass:secret")
    )
    for changes in (
        {"key": encrypted},
        {"key": acme.device().key_path},
        {"key": tmp_path / "nothing"},
        {"certificate": made.key_path},
        {"certificate": tmp_path / "nothing"},
    ):
        with pytest.raises(DeviceCertificateUnusable) as caught:
            open_door(made, **changes)
        assert "secret" not in str(caught.value)


def test_a_platform_that_is_not_there_is_said_to_be_so(made: MadeDevice) -> None:
    with pytest.raises(Unreachable) as caught:
        open_door(made).fetch_anchor()
    assert isinstance(caught.value, AgentError)
