"""The `tensorguard` command: finds the subcommand that was asked for, and says what went wrong."""

import importlib
import json
import sys
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup


class Subcommand(NamedTuple):
    """What is known of a subcommand before its module is imported."""

    extras: str
    summary: str
    is_group: bool = True


SUBCOMMANDS = {
    "up": Subcommand("server,agent,embedded", "Run the whole platform on this machine.", False),
    "demo": Subcommand(
        "server,agent,embedded,inference,demo", "Run it with agents and a model to look at.", False
    ),
    "db": Subcommand("server", "Bring a database to this version's schema."),
    "broker": Subcommand("server,embedded", "Run the broker front."),
    "hub": Subcommand("server", "Run the hub: intake, outbox, rollouts, ledger."),
    "api": Subcommand("server", "Run the REST API."),
    "simulate": Subcommand("agent", "Run simulated agents against a platform.", False),
    "agent": Subcommand("agent", "Enrol and run the agent of this device."),
    "tgsp": Subcommand("agent", "Build, inspect, verify and open packages."),
    "packages": Subcommand("agent", "Send packages to a platform."),
    "keys": Subcommand("server", "Keys that wrap keys: rotate, rewrap, migrate, import."),
    "ledger": Subcommand("server", "The Evidence Locker: verify, export, keys, epochs."),
    "trust": Subcommand("server", "Root keys, trust bundles and the platform's CA."),
    "admin": Subcommand("server", "Manage users and secrets on the platform's own machine."),
}
"""Each is the `app` of the module of its name in tensorguard.cli."""

_OURS = ("tensorguard", "agent", "api", "broker", "hub", "simulators")


@runtime_checkable
class ExplainedError(Protocol):
    """Every error of ours: a stable code, what is wrong, what to do."""

    code: str
    message: str
    hint: str


class MissingExtra(Exception):
    """A subcommand needs a library that this installation does not have."""

    code = "missing-extra"

    def __init__(self, command: str, library: str) -> None:
        self.message = f"'{command}' needs {library}, which is not installed."
        self.hint = f"pip install 'tensorguard-platform[{SUBCOMMANDS[command].extras}]'"
        super().__init__(self.message)


class LazyGroup(TyperGroup):
    """Lists subcommands without importing them; imports the one that runs."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # typer vendors click's Context
        return list(SUBCOMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override] # as above
        known = SUBCOMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=known.summary) if known else None

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def] # as above
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


def load(name: str):  # type: ignore[no-untyped-def] # as above
    """Import a subcommand. Raises: MissingExtra."""
    try:
        app = importlib.import_module(f"tensorguard.cli.{name}").app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        raise MissingExtra(name, error.name) from error
    build = typer.main.get_group if SUBCOMMANDS[name].is_group else typer.main.get_command
    command = build(app)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Control plane for fleets of edge AI agents.",
)


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata  # costs more than everything else that --help imports

    try:
        typer.echo(f"tensorguard {metadata.version('tensorguard-platform')}")
    except metadata.PackageNotFoundError:
        typer.echo("tensorguard (run from a checkout that is not installed)")
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it, exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; one of our errors becomes a short text (JSON after --json), exit 1."""
    try:
        app(prog_name="tensorguard")
    except Exception as error:
        explained = find_explained(error)
        if explained is None:
            raise
        sys.exit(explain(explained, as_json="--json" in sys.argv))


def find_explained(error: BaseException) -> ExplainedError | None:
    """The error of ours that this is, alone in however many groups of a TaskGroup."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, ExplainedError) else None


def explain(error: ExplainedError, *, as_json: bool) -> int:
    """Print an error to stderr and return the exit code for it."""
    facts = {"code": error.code, "message": error.message, "hint": error.hint}
    if as_json:
        typer.echo(json.dumps({"error": facts}), err=True)
    else:
        typer.echo(f"error: {error.message}\n  {error.hint}  [{error.code}]", err=True)
    return 1
