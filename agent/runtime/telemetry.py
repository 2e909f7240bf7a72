"""What the device measures of itself, by psutil."""

import os
from pathlib import Path

import psutil

from agent.core.settings import Telemetry

# Sensors that stand for the machine as a whole, best first.
_SENSORS = ("coretemp", "k10temp", "cpu_thermal", "soc_thermal", "acpitz")


class DeviceTelemetry:
    """Samples CPU (since the last sample), memory, the state directory's disk, temperature."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._process = psutil.Process()
        psutil.cpu_percent(interval=None)  # the first call only sets the reference

    def sample(self) -> Telemetry:
        """Measure now; takes well under a millisecond and never waits."""
        return Telemetry(
            cpu_percent=_percent(psutil.cpu_percent(interval=None)),
            memory_percent=_percent(psutil.virtual_memory().percent),
            disk_percent=_percent(psutil.disk_usage(os.fspath(self._disk)).percent),
            temperature_c=_find_temperature(),
            metrics={"agent_memory_bytes": float(self._process.memory_info().rss)},
        )


def _percent(value: float) -> float:
    return min(100.0, max(0.0, float(value)))


def _find_temperature() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)  # not on every platform
    found = read() if read else {}
    for name in _SENSORS:
        for entry in found.get(name, ()):
            if entry.current is not None and -274 <= entry.current <= 2000:
                return float(entry.current)
    return None
