"""The health check: the device's own command says whether what was activated does its work."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.inference import ModelFailed

TIMEOUT_S = 60.0
_SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A command that exits with 0 where all is well; without a shell, so that nothing expands.

    It sees the package's folder and digest as TG_PACKAGE_DIR and TG_PACKAGE_DIGEST.
    """

    command: Sequence[str]
    timeout_s: float = TIMEOUT_S

    def run(self, directory: Path, digest: str) -> None:
        """Run it. Raises: ModelFailed."""
        environment = os.environ | {"TG_PACKAGE_DIR": str(directory), "TG_PACKAGE_DIGEST": digest}
        try:
            done = subprocess.run(  # noqa: S603  # the operator of the device has given it
                list(self.command),
                env=environment,
                capture_output=True,
                timeout=self.timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ModelFailed(
                "unhealthy", f"the health check did not end in {self.timeout_s:g} s"
            ) from None
        except OSError as error:
            raise ModelFailed(
                "unhealthy", f"the health check does not start: {error.strerror}"
            ) from None
        if done.returncode:
            said = (done.stderr or done.stdout)[-_SHOWN_BYTES:].decode(errors="replace").strip()
            raise ModelFailed(
                "unhealthy", f"the health check ended with {done.returncode}: {said or 'no word'}"
            )
