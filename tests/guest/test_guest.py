"""tests/bluez inside the laboratory's guest, with the real bluetoothd of two generations.

Only where RNS_BLE_GUEST is set. The first run builds the laboratory, which takes about ten minutes; see
docs/bluez-lab.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    "RNS_BLE_GUEST" not in os.environ,
    reason="builds and boots a guest with the real BlueZ, 20 minutes the first time: RNS_BLE_GUEST=1 pytest "
    "tests/guest, or nox -s bluez",
)

CHECKOUT = Path(__file__).parents[2]
LAB = CHECKOUT / "tests" / "bluez" / "lab"

CONTROLLERS = "4"  # a peripheral and three centrals
TIME_LIMIT = "1200"  # seconds; a guest that hangs is stopped then, and its output shown
HANGS = "faulthandler_timeout=180"  # seconds in one test, after which pytest shows where it stands
IMPOSSIBLE = 77  # setup's exit status on a machine that can't have the laboratory

Show = Callable[[str], None]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Prints a line in spite of pytest's capture: what takes minutes says what it does."""

    def show(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")
            sys.stdout.flush()

    return show


def run(command: list[str], show: Show) -> tuple[int, list[str]]:
    """The exit status of a command and the lines that it printed, each of which is shown when it comes."""
    lines = []
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                show(lines[-1])
        except BaseException:
            process.terminate()  # it ends the guest, too
            raise
    return process.returncode, lines


@pytest.mark.parametrize("generation", ["5.66", "5.82"])
def test_the_tests_of_the_bluez_driver_pass_in_the_guest(generation: str, show: Show) -> None:
    status, lines = run(["bash", str(LAB / "setup"), generation], show)
    if status == IMPOSSIBLE:
        pytest.skip(lines[-1].removeprefix("lab: "))
    assert status == 0, "\n".join(["the laboratory could not be built:", *lines])

    boot = ["bash", str(LAB / "boot"), "--bluez", generation, "-n", CONTROLLERS, "-t", TIME_LIMIT]
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", HANGS, "tests/bluez"]

    def progress(line: str) -> None:
        if line.startswith("tests/"):
            show(f"BlueZ {generation}: {line}")

    status, lines = run([*boot, "--python", sys.executable, *tests], progress)
    summary = next((i for i, line in enumerate(lines) if "short test summary" in line), len(lines) - 1)
    for line in lines[summary:]:
        show(f"BlueZ {generation}: {line}")
    assert status == 0, "\n".join([f"tests/bluez in the guest with BlueZ {generation}:", *lines])
    assert any(" passed" in line for line in lines), "\n".join(lines)
