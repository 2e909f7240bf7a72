"""mosquitto's clients with an enrolled agent's certificate, and without a good one."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.integration.platform.device import Device
from tests.integration.platform.operator import Operator
from tests.integration.platform.programs import Program, mosquitto, run_mosquitto
from tests.integration.platform.waiting import wait_until

Enrolled = Callable[[], Device]


def test_a_heartbeat_by_mosquitto_pub_puts_its_agent_online(
    operator: Operator, fleet: str, enrolled: Enrolled, tmp_path: Path
) -> None:
    device = enrolled()
    message = tmp_path / "heartbeat.json"
    message.write_bytes(device.heartbeat())
    status, said = run_mosquitto(
        mosquitto(
            "mosquitto_pub", device, "-q", "1", "-t", device.up("heartbeat"), "-f", str(message)
        )
    )
    assert status == 0, said
    (agent,) = wait_until(
        lambda: [one for one in operator.agents(fleet) if one["last_heartbeat_at"]],
        "the heartbeat in the API",
    )
    assert agent["id"] == device.agent_id
    assert (agent["cpu_percent"], agent["agent_version"]) == (1.5, "9.9.9")


def test_mosquitto_sub_gets_its_own_desired_topics_and_is_refused_every_other(
    operator: Operator, fleet: str, enrolled: Enrolled, tmp_path: Path
) -> None:
    device, other = enrolled(), enrolled()
    foreign = [other.down("#"), "#", f"tg/v1/{fleet}/#", "$SYS/#", device.up("#"), device.down("+")]
    filters = [device.down("#"), f"tg/v1/{fleet}/all/down/#", *foreign]
    options = [word for one in filters for word in ("-t", one)]
    listener = mosquitto("mosquitto_sub", device, "-d", "-v", *options)
    with Program(tmp_path, "sub", ["stdbuf", "-oL", *listener]) as sub:
        wait_until(lambda: "Subscribed (mid" in sub.stdout, "SUBACK")
        granted = sub.stdout.split("Subscribed (mid: 1):")[1].splitlines()[0]
        assert [int(code) for code in granted.split(",")] == [0, 0] + [128] * len(foreign)
        # A change of the fleet's configuration is sent to the whole fleet.
        operator.http.patch(
            f"/api/v1/fleets/{fleet}",
            json={"heartbeat_interval_s": 3},
            headers={"If-Match": operator.http.get(f"/api/v1/fleets/{fleet}").headers["ETag"]},
        ).raise_for_status()
        wait_until(
            lambda: f"tg/v1/{fleet}/all/down/config " in sub.stdout, "the config of the fleet"
        )


def test_what_mosquitto_pub_sends_to_other_topics_reaches_nobody_and_is_recorded(
    operator: Operator, enrolled: Enrolled
) -> None:
    # A device each: the first of its kind is an entry at once, later ones are in a minute's sum.
    victim, sender, poser, deceiver = (enrolled() for _ in range(4))
    own = deceiver.up("event")
    denied = [
        (sender, "foreign-topic", ["-t", victim.down("desired"), "-m", "{}"]),
        (poser, "foreign-topic", ["-t", victim.up("heartbeat"), "-m", "{}"]),
        (deceiver, "foreign-topic", ["-t", deceiver.down("desired"), "-m", "{}"]),
        (deceiver, "retained-message", ["-r", "-t", own, "-m", "x"]),
    ]
    with victim.session() as session:
        for device, _, options in denied:
            run_mosquitto(mosquitto("mosquitto_pub", device, "-q", "1", *options))
        for device in (sender, poser, deceiver):
            expected = Counter(reason for one, reason, _ in denied if one is device)
            wait_until(
                lambda device=device, expected=expected: (
                    _find_denials(operator, device) == expected
                ),
                "each denied publish in the ledger",
            )
        session.publish("heartbeat", victim.heartbeat())
        assert session.ends.empty()
        topics = {topic for topic, _ in list(session.heard.queue)}
        assert victim.down("desired") not in topics
    assert not operator.entries(type="message.poisoned", subject=victim.agent_id)


def _find_denials(operator: Operator, device: Device) -> Counter[str]:
    """How often what a device did was denied, by reason."""
    found: Counter[str] = Counter()
    for entry in operator.entries(type="agent.denied", subject=device.agent_id):
        found[entry["details"]["reason"]] += entry["details"]["count"]
    return found


@pytest.mark.parametrize("how", ["without", "forged", "self-signed", "another's id"])
def test_nobody_connects_without_a_certificate_of_their_own_and_the_victim_is_undisturbed(
    how: str, operator: Operator, fleet: str, enrolled: Enrolled, tmp_path: Path
) -> None:
    victim, attacker = enrolled(), enrolled()
    with victim.session() as session:
        session.publish("heartbeat", victim.heartbeat(0))
        arguments = mosquitto(
            *("mosquitto_pub", attacker, "-q", "1", "-t", victim.up("heartbeat"), "-m", "{}"),
            client_id=victim.agent_id,
        )
        if how == "without":
            arguments = _without_certificate(arguments)
        elif how in ("forged", "self-signed"):
            forge(victim, tmp_path, self_signed=how == "self-signed")
            paths = (str(tmp_path / "forged.pem"), str(tmp_path / "forged.key"))
            arguments = _with_certificate(arguments, *paths)
        for _ in range(3):
            status, said = run_mosquitto(arguments)
            assert status != 0, said
        session.publish("heartbeat", victim.heartbeat(1))
        online = operator.wait_online(fleet, 1)
        assert [agent["id"] for agent in online] == [victim.agent_id]
        assert session.ends.empty()


def _without_certificate(arguments: list[str]) -> list[str]:
    at = arguments.index("--cert")
    return arguments[:at] + arguments[at + 4 :]


def _with_certificate(arguments: list[str], certificate: str, key: str) -> list[str]:
    at = arguments.index("--cert")
    return [*arguments[:at], "--cert", certificate, "--key", key, *arguments[at + 4 :]]


def forge(victim: Device, directory: Path, *, self_signed: bool) -> None:
    """Write a certificate that says what the victim's says, by a CA that calls itself the same."""
    real = x509.load_pem_x509_certificate(victim.certificate_path.read_bytes())
    key, ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.subject if self_signed else real.issuer)
        .public_key(key.public_key())
        .serial_number(real.serial_number)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in real.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    certificate = builder.sign(key if self_signed else ca_key, hashes.SHA256())
    (directory / "forged.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "forged.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
