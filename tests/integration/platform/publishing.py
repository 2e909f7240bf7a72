"""A publisher with the command line: keys, registration, building, uploading, deploying."""

import importlib.util
import secrets
from pathlib import Path
from typing import Any

from tests.integration.platform.operator import Operator
from tests.integration.platform.running import RunningPlatform, run_json

Json = dict[str, Any]
TGSP = {"Content-Type": "application/vnd.tensorguard.tgsp"}


def magika_model() -> Path:
    """The ONNX model in the installed `magika`: a real one, and small."""
    spec = importlib.util.find_spec("magika")  # importing it would load its runtime
    assert spec is not None
    assert spec.origin is not None
    (model,) = sorted(Path(spec.origin).parent.glob("models/standard_v3_3/model.onnx"))
    return model


class Publisher:
    """A key that the platform has been told to believe for one package name."""

    def __init__(self, platform: RunningPlatform, operator: Operator, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._operator = operator
        self._directory = directory
        self._seq = 0
        self.package = f"magika-{secrets.token_hex(3)}"
        keys = run_json("tgsp", "keygen", "publisher", "--out", str(directory / "publisher"))
        self.private, self.public = str(keys["private"]), str(keys["public"])
        run_json(
            *("admin", "publisher", "register", "--key", self.public, "--name", "Tests"),
            *("--names", self.package, "--data-dir", str(platform.data)),
        )
        self._recipient = directory / "recipient.pub"
        answer = operator.http.get("/api/v1/packages/recipient-key").raise_for_status()
        self._recipient.write_bytes(answer.content)

    def build(self, source: Path) -> tuple[Path, str]:
        """A signed package of a file: where it lies, and its digest."""
        self._seq += 1
        file = self._directory / f"{self._seq}.tgsp"
        built = run_json(
            *("tgsp", "build", str(source), "--name", self.package),
            *("--version", f"1.0.{self._seq}", "--seq", str(self._seq)),
            *("--sign", self.private, "--recipient", str(self._recipient), "--out", str(file)),
        )
        return file, str(built["digest"])

    def release(self, source: Path) -> Json:
        """Build a file, upload it, and make a release of it."""
        file, digest = self.build(source)
        answer = self._operator.http.post(
            "/api/v1/packages", content=file.read_bytes(), headers=TGSP
        )
        assert answer.status_code == 201, answer.text
        assert answer.json()["digest"] == digest
        return self._operator.post("releases", {"package_digest": digest})
