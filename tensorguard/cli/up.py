"""`tensorguard up`: the whole platform on this machine, for as long as it runs."""

import asyncio
import json
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tensorguard.cli.supervisor.addresses import Wishes
from tensorguard.cli.supervisor.broker import Engine
from tensorguard.cli.supervisor.errors import BadSettings, UpError
from tensorguard.cli.supervisor.output import Output
from tensorguard.cli.supervisor.place import default_data_directory
from tensorguard.cli.supervisor.platform import Ready, UpRequest, run_platform
from tensorguard.services.platform import ADMIN_EMAIL
from tensorguard.siem.lines import alone_on

app = typer.Typer(add_completion=False)
_ALONE_S = 5.0


@app.command()
def up(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", show_default="by user")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="For people: plain HTTP, on loopback only."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For devices: enrollment, downloads.")
    ] = None,
    mqtt: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For devices: MQTT over mutual TLS.")
    ] = None,
    enroll_mqtt: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="For devices that enrol by their maker's certificate: MQTT."
        ),
    ] = None,
    public_host: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,IP…]",
            help="How devices reach this machine; goes into join strings and certificates.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Certificate chain for --http.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its private key.")
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy with TLS stands in front of --http.")
    ] = False,
    trust_domain: Annotated[
        str, typer.Option(envvar="TG_TRUST_DOMAIN", help="Part of every agent's identity.")
    ] = "tensorguard.local",
    engine: Annotated[
        Engine | None,
        typer.Option(help="What carries the messages; remembered.", show_default="embedded"),
    ] = None,
    nats: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For services: the NATS server.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when ready, log JSON to stderr.")
    ] = False,
) -> None:
    """Run the whole platform on this machine: database, broker, hub and API.

    Addresses are chosen at the first start, kept in the data directory and used again. With
    TG_DATABASE_URL and TG_DATABASE_OWNER_URL it uses that server instead of one of its own, with
    TG_NATS_URL and TG_NATS_KEYS that NATS server.
    """
    if (tls_cert is None) != (tls_key is None):
        raise BadSettings("--tls-cert and --tls-key belong together.", hint="Give both or none.")
    protection = _protection(tls_cert, tls_key, behind_proxy)
    request = UpRequest(
        data_directory=data_dir or default_data_directory(),
        wishes=Wishes(
            http,
            device,
            mqtt,
            enroll_mqtt,
            public_host,
            is_http_protected=bool(protection),
            nats=nats,
        ),
        trust_domain=trust_domain,
        engine=engine,
        service_settings=protection,
    )
    output = Output(as_json=True if as_json else None)
    announce = partial(announce_as_json if as_json else announce_to_people, tls_cert is not None)
    try:
        asyncio.run(run_platform(request, output=output, announce=announce))
    except OSError as error:
        raise UpError(str(error), hint="Check the data directory and its file system.") from error


def _protection(tls_cert: Path | None, tls_key: Path | None, behind_proxy: bool) -> dict[str, str]:
    """What lets people's traffic leave this machine, as the api's settings."""
    settings: dict[str, str] = {}
    if tls_cert is not None and tls_key is not None:
        settings |= {"TG_TLS_CERT": str(tls_cert.resolve()), "TG_TLS_KEY": str(tls_key.resolve())}
    if behind_proxy:
        settings["TG_BEHIND_PROXY"] = "true"
    return settings


def announce_as_json(has_tls: bool, ready: Ready) -> None:
    """Print what a script wants to know, in one line."""
    admin = {"email": ADMIN_EMAIL}
    if ready.admin_password is not None:
        admin["password"] = ready.admin_password
    _print(json.dumps({"ready": True, **_urls(has_tls, ready), "admin": admin}))


def announce_to_people(has_tls: bool, ready: Ready) -> None:
    """Print what a person wants to know."""
    urls = _urls(has_tls, ready)
    password = ready.admin_password
    note = f"  (password, shown only now: {password})" if password is not None else ""
    _print(
        f"\nTensorGuard is ready: {urls['url']}\n"
        f"  sign in    {ADMIN_EMAIL}{note}\n"
        f"  devices    {urls['device_url']}\n"
        f"  MQTT       {urls['mqtt_url']}\n"
        f"  enrol      {urls['enroll_url']} (makers' certificates)\n"
        f"  data       {ready.data_directory}\n"
        "Ctrl-C stops it.\n"
    )


def _print(text: str) -> None:
    """Print where the hub may be printing entries, for a sink: not into the midst of one."""
    with ExitStack() as alone:
        with suppress(OSError):  # late is better than never
            alone.enter_context(alone_on(sys.stdout.fileno(), within_s=_ALONE_S))
        typer.echo(text)


def _urls(has_tls: bool, ready: Ready) -> dict[str, str]:
    addresses = ready.addresses
    return {
        "url": f"{'https' if has_tls else 'http'}://{addresses.http}",
        "device_url": addresses.url("https", addresses.device),
        "mqtt_url": addresses.url("mqtts", addresses.mqtt),
        "enroll_url": addresses.url("mqtts", addresses.enroll_mqtt),
    }
