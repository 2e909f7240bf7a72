"""The health check is a command of the device's own: 0 is well, all else is not."""

import time
from pathlib import Path

import psutil
import pytest

from agent.runtime.health import HealthCheck
from agent.runtime.inference import ModelFailed
from tests.patience import PATIENCE_S


def shell(script: str, **settings: float) -> HealthCheck:
    return HealthCheck(("/bin/sh", "-c", script), **settings)


def is_over(pid: int) -> bool:
    """Whether a process is gone, or only waits to be collected by whoever adopts orphans."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_it_sees_what_was_activated_and_passes_with_0(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("good")
    check = 'test "$(cat "$TG_PACKAGE_DIR/weights")" = good && test "$TG_PACKAGE_DIGEST" = ab12'
    shell(check).run(tmp_path, "ab12")
    with pytest.raises(ModelFailed):
        shell(check).run(tmp_path, "ab13")


def test_what_it_says_is_told_and_no_more_than_its_end(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match=r"ended with 3: no camera$") as caught:
        shell("echo no camera >&2; exit 3").run(tmp_path, "ab12")
    assert caught.value.failure.code == "unhealthy"
    with pytest.raises(ModelFailed) as caught:
        shell("yes | head -c 100000; echo the end; exit 1").run(tmp_path, "ab12")
    assert str(caught.value).endswith("the end")
    assert len(str(caught.value)) < 300


def test_one_that_does_not_end_or_start_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match=r"did not end in 0\.2 s"):
        shell("exec sleep 1000", timeout_s=0.2).run(tmp_path, "ab12")
    with pytest.raises(ModelFailed, match="does not start"):
        HealthCheck(("/nowhere/check",)).run(tmp_path, "ab12")
    with pytest.raises(ModelFailed, match="ended with"):
        HealthCheck(("/bin/sh", "$(reboot)")).run(tmp_path, "ab12")


def test_what_does_not_end_is_killed_whole_and_what_is_left_behind_goes_on(tmp_path: Path) -> None:
    """A child of the check holds its output in both: neither is waited for."""
    with pytest.raises(ModelFailed, match="did not end"):
        shell(f"sleep 1000 & echo $! > {tmp_path}/killed; wait", timeout_s=0.5).run(tmp_path, "ab")
    shell(f"sleep 1000 & echo $! > {tmp_path}/left").run(tmp_path, "ab")
    killed, left = (int((tmp_path / name).read_text()) for name in ("killed", "left"))
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_over(killed):
        assert time.monotonic() < give_up_at
    assert not is_over(left)
    psutil.Process(left).kill()
