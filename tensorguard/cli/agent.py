"""`tensorguard agent`: enrol this device, run its agent, show how it is."""

import json
import logging
import os
import platform
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from platformdirs import user_data_path

from agent.errors import NotEnrolled
from agent.runtime.enroll import Joined, Waiting, enter
from agent.runtime.enroll import enroll as join_platform
from agent.runtime.enroll_mtls import DeviceDoor
from agent.runtime.health import HealthCheck
from agent.runtime.logs import LogRing
from agent.runtime.outbox_file import OutboxFile
from agent.runtime.service import AgentService, read_credentials, read_trust
from agent.runtime.statedir import OUTBOX, StateDir
from agent.version import AGENT_VERSION
from tensorguard.cli import lifeline
from tensorguard.cli.durations import parse_seconds
from tensorguard.protocol.join import parse_join

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Enrol and run the agent of this device."
)


def default_state_dir() -> Path:
    """Where the agent of this machine lives: /var/lib for root, else the user's data directory."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/tensorguard-agent")
    return user_data_path("tensorguard-agent", appauthor=False)


StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="The agent's keys, state and packages."),
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Ask once, and leave if an operator has to decide.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def enroll(
    join: Annotated[str, typer.Argument(help="The join string; - reads it from standard input.")],
    name: Annotated[str, typer.Option(help="What to call this device.")] = "",
    state_dir: StateDirOption = None,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for an operator's approval.")
    ] = 3600.0,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Enrol this device with a platform. A lost answer costs nothing: run it again.

    Where an operator has to approve, it asks again until somebody has decided; whenever it is
    stopped, the same command continues with the same keys.
    """
    text = sys.stdin.readline() if join == "-" else join
    directory = StateDir(state_dir or default_state_dir())
    waiting = _waiting(wait_s, no_wait=no_wait, as_json=as_json)
    joined = join_platform(parse_join(text), directory, _name(name), waiting)
    _report_joined(joined, directory, as_json)


@app.command("enroll-mtls")
def enroll_mtls(
    url: Annotated[str, typer.Option(metavar="mqtts://HOST:PORT", help="Where devices enrol.")],
    device_cert: Annotated[
        Path, typer.Option(metavar="FILE", help="The manufacturer's certificate (PEM).")
    ],
    device_key: Annotated[
        Path, typer.Option(metavar="FILE", help="Its private key (PEM); a TPM is not supported.")
    ],
    ca_pin: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="SHA-256 of the platform CA's public key (SPKI)."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The platform CA (PEM), instead of its pin.")
    ] = None,
    name: Annotated[str, typer.Option(help="What to call this device.")] = "",
    state_dir: StateDirOption = None,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for an operator's approval.")
    ] = 3600.0,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Enrol this device with the certificate that it left the factory with."""
    directory = StateDir(state_dir or default_state_dir())
    door = DeviceDoor.open(
        url=url, ca_pin=ca_pin, ca_file=ca, certificate=device_cert, key=device_key
    )
    waiting = _waiting(wait_s, no_wait=no_wait, as_json=as_json)
    joined = enter(door, directory, _name(name), waiting)
    _report_joined(joined, directory, as_json)


def _waiting(wait_s: float, *, no_wait: bool, as_json: bool) -> Waiting:
    return Waiting(
        most_s=0.0 if no_wait else wait_s,
        say=_say_nothing if as_json else partial(typer.echo, err=True),
    )


def _name(given: str) -> str:
    return given or platform.node() or "agent"


def _report_joined(joined: Joined, directory: StateDir, as_json: bool) -> None:
    report = {
        "agent_id": str(joined.identity.agent_id),
        "fleet": joined.identity.fleet,
        "trust_domain": joined.identity.trust_domain,
        "certificate_not_after": joined.certificate.not_valid_after_utc.isoformat(),
        "mqtt": f"{joined.mqtt_host}:{joined.mqtt_port}",
        "state_dir": str(directory.path),
    }
    _report(report, as_json)


@app.command()
def run(
    state_dir: StateDirOption = None,
    health_check: Annotated[
        str | None,
        typer.Option(
            envvar="TG_AGENT_HEALTH_CHECK",
            metavar="COMMAND",
            help="Runs after each activation; if it fails, the last good package is back.",
        ),
    ] = None,
    health_timeout: Annotated[
        float,
        typer.Option(parser=parse_seconds, metavar="TIME", help="How long it may take."),
    ] = "60s",  # type: ignore[assignment]  # typer parses the default, too
    as_json: Json = False,
) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    ring = LogRing()
    _configure_log(as_json=as_json or not sys.stderr.isatty(), ring=ring)
    lifeline.end_with_parent()
    directory = StateDir(state_dir or default_state_dir())
    if not directory.is_enrolled:
        raise NotEnrolled(f"no agent is enrolled in {directory.path}")
    with directory.locked():
        health = None
        if health_check:
            health = HealthCheck(shlex.split(health_check), health_timeout)
        service = AgentService(directory, health=health, logs=ring)
        service.stop_on_signals()
        service.run()
    if service.restart:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # ourselves, as started


@app.command()
def status(state_dir: StateDirOption = None, as_json: Json = False) -> None:
    """Show who this agent is and what it last knew; works while it runs."""
    directory = StateDir(state_dir or default_state_dir())
    credentials, home = read_credentials(directory), directory.get_home()
    state, trust = directory.get_state(), read_trust(directory)
    outbox_file = OutboxFile(directory.path / OUTBOX)
    held = len(outbox_file.load())
    outbox_file.close()
    desired, running = state.desired, state.running
    report: dict[str, Any] = {
        "agent_id": str(credentials.identity.agent_id),
        "fleet": credentials.identity.fleet,
        "name": home.name,
        "agent_version": AGENT_VERSION,
        "device_url": home.device_url,
        "mqtt": f"{home.mqtt_host}:{home.mqtt_port}",
        "certificate_not_after": credentials.not_after.isoformat(),
        "boot_count": state.boot_count,
        "heartbeat_interval_s": state.heartbeat_interval_s,
        "trust_version": trust.version,
        "config_revision": state.config.revision,
        "package": None
        if running is None
        else {
            "name": running.name,
            "version": running.version,
            "digest": running.digest,
            "at_rest": running.at_rest,
        },
        "desired": None
        if desired is None
        else {
            "epoch": desired.epoch,
            "revision": desired.revision,
            "state": state.stage,
            "reason": state.reason,
        },
        "events_held": held,
        "state_dir": str(directory.path),
    }
    _report(report, as_json)


def _say_nothing(text: str) -> None:
    """Keep quiet: what is printed is for a program."""


def _report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report))
        return
    for key, value in report.items():
        shown = json.dumps(value) if isinstance(value, dict) else "-" if value is None else value
        typer.echo(f"{key:22} {shown}")


def _configure_log(*, as_json: bool, ring: LogRing | None = None) -> None:
    render = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([] if ring is None else [ring]),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
