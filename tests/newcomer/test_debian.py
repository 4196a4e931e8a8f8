"""From nothing to rnsd with a BLE interface, on a clean Debian, by what the documents say and nothing else.

The commands are typed by an ordinary user of a root that has only Debian's required packages and sudo. What
needs the network runs in that root on this machine; then the laboratory's guest is booted with the same root,
where there are an adapter and that Debian's BlueZ, so the interface comes up for real.

Where RNS_BLE_GUEST is set, since the guest takes minutes to build; `nox -s newcomer` runs this alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.newcomer import roots
from tests.newcomer.documents import ROOT, Scene, commands_of

pytestmark = pytest.mark.skipif(
    "RNS_BLE_GUEST" not in os.environ,
    reason="makes a Debian root, and boots a guest with BlueZ: RNS_BLE_GUEST=1 pytest tests/newcomer, "
    "or nox -s newcomer",
)

IMPOSSIBLE = 77  # the laboratory's setup says that this machine can't have it
DEADLINE = 1200.0  # seconds, for a slow mirror
CLONE = "git clone -q /srv/rns_ble.git ~/rns_ble && cd ~/rns_ble"
BLUEZ = {"bookworm": "5.66", "trixie": "5.82"}
JOURNEYS = {
    "bookworm": [Scene.FROM_NOTHING, Scene.PIPX],
    "trixie": [Scene.PAGE_FROM_NOTHING, Scene.PAGE_PIPX],
}
"""README.md is followed on Debian 12, docs/install.md on Debian 13, by two people at a time."""

ONLINE = r"BLEInterface\[BLE Interface\]: online"
"""What `rnsd` says."""

SHOWS = {
    "rnstatus": r"BLEInterface\[BLE Interface\]\s+Status\s+: Up",
    # It has a remark on BlueZ's settings as Debian 12 has them.
    "rns-ble doctor": r"All is well\.|Nothing keeps the interface from working",
    "rns-ble status": r"BLE Interface: online",
}
"""What these have to say in the end."""


@pytest.mark.parametrize(
    "suite",
    [
        "bookworm",
        pytest.param(
            "trixie",
            marks=pytest.mark.skipif(
                "RNS_BLE_NEWCOMER" not in os.environ,
                reason="as long again: RNS_BLE_NEWCOMER=1, or nox -s newcomer",
            ),
        ),
    ],
)
async def test_from_nothing_to_an_interface_that_is_online(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason := roots.impossible() or _no_laboratory(BLUEZ[suite]):
        pytest.skip(reason)

    async def follow(scene: Scene) -> None:
        packages, install, rnsd, *looks = commands_of(scene)
        directory = tmp_path / scene.name
        directory.mkdir()
        async with roots.debian(archive, directory) as root:
            # One terminal: what is on PATH only after the next login is not there yet.
            said = await root.terminal().run(f"{packages}{CLONE}\n{install}")
            assert "/home/newcomer/.reticulum/config, now with this section" in said
            shows = [(look, SHOWS[look.strip().rpartition("/")[2]]) for look in looks]
            shown = await root.in_guest(BLUEZ[suite], (rnsd, ONLINE), shows)
        with capsys.disabled():
            sys.stdout.write(f"\nDebian {suite}, {scene.name}:\n{shown}")

    with trio.fail_after(DEADLINE):
        archive = await roots.build(suite)
        async with trio.open_nursery() as nursery:
            for scene in JOURNEYS[suite]:
                nursery.start_soon(follow, scene)


def _no_laboratory(bluez: str) -> str | None:
    """Why this machine can't boot the guest; builds it where it is not there yet."""
    setup = subprocess.run(
        ["bash", str(ROOT / "tests" / "bluez" / "lab" / "setup"), bluez],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if setup.returncode == IMPOSSIBLE:
        return setup.stderr.splitlines()[-1].removeprefix("lab: ")
    assert setup.returncode == 0, setup.stderr
    return None
