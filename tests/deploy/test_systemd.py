"""The units: what systemd itself says of them, and rnsd in the sandbox that they make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.wheel import load
from tests.deploy.conftest import ROOT, Wheels
from tests.deploy.sshd import Sshd
from tests.deploy.systemd import LIBRARIES, UNITS, Systemd, systemd

SYSTEM = UNITS / "system/rnsd.service"
USER = UNITS / "user/rnsd.service"

NEWER = ("RestartSteps", "RestartMaxDelaySec")
"""systemd before 254 does not know these, and says so."""


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("this machine has no systemd-analyze")
    return program


@pytest.mark.parametrize(
    ("unit", "program"), [(SYSTEM, "/opt/reticulum/bin/rnsd"), (USER, "%h/.local/bin/rnsd")]
)
def test_systemd_finds_nothing_wrong_with_a_unit(
    analyze: str, tmp_path: Path, unit: Path, program: str
) -> None:
    text = unit.read_text()
    assert f"ExecStart={program}" in text
    (tmp_path / unit.name).write_text(text.replace(program, "/bin/true"))
    user = ["--user"] if unit == USER else []

    outcome = subprocess.run(
        [analyze, "verify", "--man=no", *user, str(tmp_path / unit.name)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    said = [line for line in outcome.stderr.splitlines() if unit.name in line]
    assert [line for line in said if not any(key in line for key in NEWER)] == []
    assert outcome.returncode == 0, outcome.stderr


def test_the_systems_rnsd_is_exposed_to_little(analyze: str) -> None:
    """2.2 of 10 with systemd 252; what adds to it is that it needs the network, and devices to come."""
    command = [analyze, "security", "--offline=yes", "--threshold=25", "--no-pager", str(SYSTEM)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


class Gateway:
    """A systemd with rnsd.service, whose environment has some version of this package."""

    def __init__(self, manager: Systemd) -> None:
        self.manager = manager

    def as_reticulum(self, *command: str) -> str:
        return self.manager.run(
            "setpriv", "--reuid=reticulum", "--regid=reticulum", "--init-groups", *command
        )

    def interface(self) -> dict[str, Any]:
        command = [
            "/opt/reticulum/bin/rns-ble",
            "status",
            "--json",
            "--wait",
            "30",
            "--config",
            "/var/lib/reticulum",
        ]
        status = json.loads(self.as_reticulum(*command))
        assert status["interfaces"], (self.manager.work / "rnsd.log").read_text()
        (interface,) = status["interfaces"]
        return dict(interface)


SUDO = """
set -eu
sudo() {
    if [ "$1" = -u ]; then setpriv --reuid="$2" --regid="$2" --init-groups "${@:3}"; else "$@"; fi
}
"""


def documented(number: int) -> str:
    """The so-maniest block of commands in the first part of docs/deployment.md."""
    text = (ROOT / "docs/deployment.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, wheels: Wheels, ether: str) -> Iterator[Gateway]:
    """Set up as docs/deployment.md says, but for the user and the environment, and on the virtual radio."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a systemd of its own")
    work = tmp_path_factory.mktemp("systemd")
    wheel = shutil.copy(wheels.build(), work)
    with systemd(work) as manager:
        manager.run(
            "/opt/reticulum/bin/python", "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel
        )
        enable = "install --enable"
        commands = documented(1)
        assert enable in commands
        commands = commands.replace(enable, f"{enable} --driver bumble --transport {ether}")
        manager.run("bash", "-c", f"{SUDO}cd {work}\n{commands}{documented(2)}")
        yield Gateway(manager)


def test_rnsd_is_online_in_the_sandbox_and_comes_back_when_it_dies(gateway: Gateway) -> None:
    before = gateway.interface()
    assert before["online"], before
    assert gateway.manager.shows("UnitFileState") == "enabled"
    assert "unblock-bluetooth.conf" in gateway.manager.shows("DropInPaths")
    pid = gateway.manager.shows("MainPID")
    status = dict(
        line.split(":\t", 1)
        for line in gateway.manager.run("cat", f"/proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split()[0] == gateway.manager.run("id", "-u", "reticulum").strip()
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)

    gateway.manager.run("systemctl", "kill", "--signal=KILL", "rnsd.service")

    after = gateway.interface()
    assert after["online"], after
    assert gateway.manager.shows("MainPID") not in {"0", pid}


def test_a_deployment_as_root_restarts_the_service_and_installs_as_the_owner(
    gateway: Gateway, wheels: Wheels, tmp_path: Path
) -> None:
    wheel, work = wheels.build(), gateway.manager.work
    gateway.manager.run("chown", "-R", "reticulum", "/opt/reticulum")
    # Who logs in is root already; what there is of sudo is how it is called.
    gateway.manager.run("mkdir", "/opt/bin")
    gateway.manager.run("sh", "-c", "printf '#!/bin/sh\\n[ $1 = -n ] && shift && exec \"$@\"' >/opt/bin/sudo")
    gateway.manager.run("chmod", "755", "/opt/bin/sudo")
    environment = {"PIP_NO_INDEX": "1", "HOME": str(work), "PATH": f"/opt/bin:{os.defpath}", **LIBRARIES}
    sshd = Sshd(work, environment)
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(
        f'[hosts.gateway]\naddress = "127.0.0.1"\nport = {sshd.port}\nsudo = true\n'
        'python = "/mnt/python/bin/python3"\n'
    )
    command = [sys.executable, "-m", "deploy", "--hosts", str(hosts), "--wheel", str(wheel), "--json"]
    command += ["--ssh-config", "/dev/null", "--identity", str(sshd.identity)]
    command += ["--known-hosts", str(sshd.known_hosts)]

    with sshd.running(gateway.manager.enter):
        outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    (host,) = json.loads(outcome.stdout)["hosts"]
    assert host["environment"] == "/opt/reticulum/bin/python"
    assert host["interfaces"] == ["BLE Interface"]
    assert "restarting rnsd.service" in outcome.stderr
    assert gateway.interface()["version"] == load(wheel).version
    assert gateway.manager.run("find", "/opt/reticulum", "!", "-user", "reticulum") == ""
