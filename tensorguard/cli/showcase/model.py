"""The demo's model: the ONNX file of the installed magika, and the package made of it."""

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

from tensorguard.cli.showcase.errors import DemoFailed
from tensorguard.cli.showcase.platform import Api
from tensorguard.cli.showcase.programs import ask

NAME = "magika"


def find_model() -> Path:
    """Return the model file. Raises: DemoFailed where magika is not installed."""
    found = importlib.util.find_spec("magika")
    for place in (found.submodule_search_locations or ()) if found else ():
        for model in sorted(Path(place).glob("models/*/model.onnx")):
            return model
    raise DemoFailed(
        "The demo's model comes with the package 'magika', which is not installed.",
        hint="make demo installs it; by hand: pip install 'tensorguard-platform[demo,inference]'",
    )


async def ensure_release(api: Api, data_directory: Path, work: Path, model: Path) -> dict[str, Any]:
    """Return the release of the packed model; every step that is done already is left as it is."""
    version = metadata.version("magika")
    kid = await _ensure_publisher(api, data_directory, work)
    release = await api.find("releases", {"name": NAME}, version=version)
    if release is not None:
        return release
    package = await api.find("packages", {"name": NAME}, version=version)
    if package is None:
        api.say(f"building the package {NAME} {version}, signed by publisher {kid[:12]}…")
        file = await _build(api, work, model, version)
        api.say("uploading it")
        package = await api.upload(file)
        api.say(f"the platform has verified it: {package['digest'][:12]}…")
    body = {"package_digest": package["digest"], "notes": "Made by the demo."}
    return await api.post("releases", body)


async def _ensure_publisher(api: Api, data_directory: Path, work: Path) -> str:
    """Make a publisher's key, register it with the platform; return its id."""
    prefix = work / "publisher"
    if not prefix.with_suffix(".pub").exists():
        made = await ask("tgsp", "keygen", "publisher", "--out", str(prefix))
        (work / "publisher.kid").write_text(str(made["kid"]))
    kid = (work / "publisher.kid").read_text().strip()
    if await api.find("publishers", {}, kid=kid) is None:
        api.say("registering the publisher; the root keys sign a new trust bundle")
        await ask(
            "admin", "publisher", "register", "--name", "Demo publisher", "--names", f"{NAME}*",
            "--key", f"{prefix}.pub", "--data-dir", str(data_directory),
        )  # fmt: skip
    return kid


async def _build(api: Api, work: Path, model: Path, version: str) -> Path:
    recipient, file = work / "recipient.pub", work / f"{NAME}.tgsp"
    recipient.write_bytes(await api.download("packages/recipient-key"))
    file.unlink(missing_ok=True)
    held = [one["seq"] async for one in api.pages("packages", {"name": NAME})]
    await ask(
        "tgsp", "build", str(model), "--name", NAME, "--version", version,
        "--seq", str(max(held, default=0) + 1), "--sign", str(work / "publisher.key"),
        "--recipient", str(recipient), "--out", str(file),
    )  # fmt: skip
    return file
