"""Trying a model: one inference where a runtime for it is installed, in a process of its own.

`python -m agent.runtime.inference DIRECTORY` prints what it did as one JSON line. A model that
crashes its runtime, or never ends, so costs the agent nothing but the activation.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent.core.errors import JobFailure

TIMEOUT_S = 120
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class ModelFailed(Exception):
    """The model does not load, or does not run."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = JobFailure("device", code, message)


def try_model(directory: Path, *, timeout_s: float = TIMEOUT_S) -> dict[str, str | int]:
    """Run one inference on the first ONNX model in `directory`; say what was done and how long.

    Without a model or a runtime the package counts as verified only. Raises: ModelFailed.
    """
    try:
        done = subprocess.run(  # noqa: S603  # our own module in our own interpreter
            [sys.executable, "-m", "agent.runtime.inference", str(directory)],
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ModelFailed("inference-timeout", f"no result in {timeout_s:.0f} s") from None
    if done.returncode == 0:
        report: dict[str, str | int] = json.loads(done.stdout)
        return report
    if done.returncode < 0:
        raise ModelFailed("inference-crashed", f"the model runtime got signal {-done.returncode}")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    raise ModelFailed("inference-failed", lines[-1][:300] if lines else "the model does not run")


def infer(directory: Path) -> dict[str, str | int]:
    """Run one inference here and now; what the child process does."""
    models = sorted(directory.rglob("*.onnx"))
    if not models:
        return _verified_only("the package holds no ONNX model")
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError:
        return _verified_only("onnxruntime is not installed")
    ort.set_default_logger_severity(3)
    model = models[0]
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = {one.name: np.zeros(_shape(one), _dtype(one)) for one in session.get_inputs()}
    begun = time.perf_counter()
    outputs = session.run(None, inputs)
    took_ms = (time.perf_counter() - begun) * 1000
    return {
        "engine": f"onnxruntime {ort.__version__}",
        "model": model.relative_to(directory).as_posix()[:200],
        "inputs": ", ".join(f"{n} {v.dtype}{list(v.shape)}" for n, v in inputs.items())[:300],
        "outputs": len(outputs),
        "ms": round(took_ms),
        "us": round(took_ms * 1000),
    }


def _verified_only(why: str) -> dict[str, str | int]:
    return {"engine": "none", "checked": "verified only", "why": why}


def _shape(one: Any) -> list[int]:
    # A dimension without a fixed size (batch, sequence) is tried with 1.
    return [size if isinstance(size, int) and size > 0 else 1 for size in one.shape]


def _dtype(one: Any) -> str:
    if one.type not in _TYPES:
        raise ValueError(f"input {one.name} has type {one.type}, for which there are no zeros")
    return _TYPES[one.type]


if __name__ == "__main__":
    print(json.dumps(infer(Path(sys.argv[1]))))
