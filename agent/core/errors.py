"""Why a job of the agent did not succeed."""

from dataclasses import dataclass
from typing import Literal

# network: try again. busy: wait for one's turn. link: the URL is refused, a new desired document is
# needed. signature, policy, damaged: the package must not run. device: this machine cannot do it
# (disk, model runtime).
FailureKind = Literal["network", "busy", "link", "signature", "policy", "damaged", "device"]


@dataclass(frozen=True, slots=True)
class JobFailure:
    """What went wrong: a stable code, a sentence, and what follows from it."""

    kind: FailureKind
    code: str
    message: str

    @property
    def reason(self) -> str:
        """The reason as a progress message may carry it: one line, at most 500 characters."""
        text = f"{self.code}: {self.message}"
        return "".join(c if c.isprintable() else " " for c in text)[:500]
