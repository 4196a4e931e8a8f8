"""`rns-ble doctor` where BlueZ is real: what it says of each fault, and that `--fix` ends it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from rns_ble.cli import main
from rns_ble.cli.install import SHIM
from rns_ble.cli.running import ask_all
from rns_ble.drivers.bluez.bearer import AF_BLUETOOTH, BTPROTO_HCI
from tests.bluez import laboratory
from tests.bluez.laboratory import Laboratory

Checks = dict[str, dict[str, str]]
Doctor = Callable[..., Checks]

HCI_CHANNEL_USER = 1
"""Linux, include/net/bluetooth/hci.h: the adapter for one program alone."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with which nothing is wrong, and no rnsd on PATH whose imports each check would wait
    for.
    """
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python3").touch(mode=0o600)
    (bin_ / "rnsd").write_text(f"#!{bin_}/python3\n")
    (bin_ / "rnsd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    directory = tmp_path / "reticulum"
    (directory / "interfaces").mkdir(parents=True)
    (directory / "interfaces" / "BLEInterface.py").write_text(SHIM)
    (directory / "config").write_text(
        f"[reticulum]\ninstance_name = {tmp_path.name}\n\n"
        "[interfaces]\n[[BLE Interface]]\ntype = BLEInterface\nenabled = yes\nadapter = hci0\n"
    )
    return directory


@pytest.fixture
def doctor(config: Path, capfd: pytest.CaptureFixture[str]) -> Doctor:
    def run(*arguments: str) -> Checks:
        code = main(["doctor", "--json", "--config", str(config), *arguments])
        report = json.loads(capfd.readouterr().out)
        checks = {check["name"]: check for check in report["checks"]}
        assert report["ok"] is (code == 0)
        assert code == any(check["state"] == "failed" for check in report["checks"])
        return checks

    return run


def failures(checks: Checks) -> set[str]:
    return {name for name, check in checks.items() if check["state"] == "failed"}


def states(checks: Checks, *names: str) -> list[str]:
    return [checks[name]["state"] for name in names]


def test_all_is_well_beside_a_running_rnsd(
    lab: Laboratory, doctor: Doctor, config: Path, bluez_version: tuple[int, int]
) -> None:
    """It is asked while the interface is up: then the Python of that rnsd is looked into as well."""
    rnsd = Path(sys.executable).with_name("rnsd")
    process = subprocess.Popen([rnsd, "--config", str(config)], stdout=subprocess.DEVNULL)
    try:

        async def online() -> None:
            with trio.fail_after(laboratory.PATIENCE):
                while not ask_all(config).ok:
                    await trio.sleep(0.2)

        trio.run(online)
        checks = doctor()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert {name: check["found"] for name, check in checks.items() if check["state"] != "ok"} == {}
    assert checks["shared instance"]["found"].startswith(f"rnsd (process {process.pid}, user root)")
    assert checks["Python"]["found"].startswith(f"rnsd (process {process.pid}, user root) runs with ")
    assert checks["BlueZ's version"]["found"].startswith(".".join(map(str, bluez_version)))
    assert checks["adapter"]["found"] == "hci0, C0:FF:EE:00:00:00"
    assert checks["roles"]["found"] == "Low Energy as central and peripheral"
    assert checks["advertisements"]["found"].startswith("1 in use, room for ")
    assert checks["interface"]["found"].startswith(f"BLE Interface (process {process.pid}) is online")


def test_an_adapter_that_is_off_is_switched_on(lab: Laboratory, doctor: Doctor) -> None:
    trio.run(laboratory.set_powered, "hci0", False)
    checks = doctor()
    assert failures(checks) == set(), "an interface that starts switches it on"
    assert states(checks, "adapter", "rfkill", "power", "roles") == ["ok", "ok", "warning", "ok"]
    assert "hci0 is off" in checks["power"]["found"]
    checks = doctor("--fix", "--yes")
    assert states(checks, "power") == ["ok"]
    assert trio.run(laboratory.adapters)["hci0"]["Powered"] is True
    assert failures(doctor("--fix", "--yes")) == set()


def test_an_adapter_that_is_blocked_is_unblocked(lab: Laboratory, doctor: Doctor) -> None:
    lab.block("hci0")

    async def off() -> None:
        while (await laboratory.adapters())["hci0"]["Powered"]:
            await trio.sleep(laboratory.POLL)

    trio.run(off)
    checks = doctor()
    assert failures(checks) == {"rfkill"}
    assert checks["power"]["state"] == "skipped"
    checks = doctor("--fix", "--yes")
    assert failures(checks) == set()
    assert trio.run(laboratory.adapters)["hci0"]["Powered"] is True


def test_no_adapter(lab: Laboratory, doctor: Doctor, config: Path) -> None:
    """One that is named, while there are others; then none at all."""

    async def unplug(*controllers: int) -> None:
        for controller in controllers:
            await lab.unplug(controller)
        while len(await laboratory.adapters()) != lab.count - len(lab._unplugged):
            await trio.sleep(laboratory.POLL)

    trio.run(unplug, 0)
    checks = doctor()
    assert failures(checks) == {"adapter"}
    assert checks["adapter"]["found"].startswith("there is no hci0; BlueZ has hci1")
    assert "set `adapter = C0:FF:EE:00:00:01`" in checks["adapter"]["mend"]
    before = (config / "config").read_bytes()
    assert failures(doctor("--fix", "--yes")) == set()
    assert "adapter = C0:FF:EE:00:00:01" in (config / "config").read_text()
    assert [path.read_bytes() for path in config.glob("config.*.bak")] == [before]
    trio.run(unplug, *range(1, lab.count))
    checks = doctor()
    assert failures(checks) == {"adapter"}
    assert (checks["adapter"]["found"], checks["BlueZ"]["state"]) == ("there is none", "ok")
    assert checks["BlueZ's version"]["state"] == "skipped"


@pytest.fixture
def another_program(lab: Laboratory) -> Iterator[int]:
    """A process that has hci0 for itself."""
    trio.run(laboratory.set_powered, "hci0", False)
    with socket.socket(AF_BLUETOOTH, socket.SOCK_RAW, BTPROTO_HCI) as taken:
        # Python's own bind knows no channels.
        address = b"".join(
            number.to_bytes(2, sys.byteorder) for number in (AF_BLUETOOTH, 0, HCI_CHANNEL_USER)
        )
        assert ctypes.CDLL(None).bind(taken.fileno(), address, len(address)) == 0

        async def gone() -> None:
            while "hci0" in await laboratory.adapters():
                await trio.sleep(laboratory.POLL)

        trio.run(gone)
        yield os.getpid()


def test_an_adapter_that_another_program_has(another_program: int, doctor: Doctor) -> None:
    checks = doctor()
    assert failures(checks) == {"adapter"}
    assert checks["adapter"]["found"].startswith("hci0 is driven by another program: ")
    assert f"(process {another_program}, user root)" in checks["adapter"]["found"]


def test_no_bluetoothd_and_no_bus(lab: Laboratory, doctor: Doctor) -> None:
    trio.run(lab.bluetoothd.kill)
    checks = doctor()
    assert failures(checks) == {"BlueZ"}
    assert (checks["D-Bus"]["state"], checks["BlueZ"]["found"]) == ("ok", "bluetoothd does not run")
    assert checks["BlueZ"]["mend"].startswith("start the service bluetooth"), "systemd does not run here"
    trio.run(lab.dbus_daemon.kill)
    checks = doctor()
    assert failures(checks) == {"D-Bus"}
    assert states(checks, "BlueZ", "BlueZ's version", "adapter") == ["skipped"] * 3


def test_a_user_whom_the_policy_refuses(lab: Laboratory, doctor: Doctor) -> None:
    policy = Path("/etc/dbus-1/system.d/zz-nobody-may.conf")
    policy.write_text(
        '<busconfig><policy context="mandatory"><deny send_destination="org.bluez"/></policy></busconfig>'
    )
    try:
        trio.run(lab.dbus_daemon.kill)
        trio.run(lab.bluetoothd.kill)
        trio.run(lab._start)
        checks = doctor()
        while "does not run" in checks["BlueZ"]["found"]:
            checks = doctor()
    finally:
        policy.unlink()
        trio.run(lab.dbus_daemon.kill)
        trio.run(lab.bluetoothd.kill)
    assert failures(checks) == {"BlueZ"}
    assert checks["BlueZ"]["found"].startswith("root may not use it")
    assert checks["BlueZ"]["mend"] == "usermod -aG bluetooth root"


def test_more_att_channels_than_one(lab: Laboratory, doctor: Doctor) -> None:
    trio.run(lambda: lab.restart_bluetoothd(Channels=3))
    assert doctor()["Channels"]["state"] == "warning"
    before = laboratory.MAIN_CONF.read_text()
    checks = doctor("--fix", "--yes")
    assert states(checks, "Channels", "main.conf") == ["ok", "warning"], "nobody can restart it here"
    assert checks["main.conf"]["mend"].startswith("restart the service bluetooth"), "there is no systemd"
    assert laboratory.MAIN_CONF.read_text() == before.replace("Channels=3", "Channels = 1")
    kept = list(laboratory.MAIN_CONF.parent.glob("main.conf.*.bak"))
    assert [path.read_text() for path in kept] == [before]
    kept[0].unlink()
