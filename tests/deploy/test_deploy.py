"""Deployment for real: OpenSSH on both sides, pip, and an rnsd whose interface comes online, or does not."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.wheel import load
from tests.deploy.conftest import ROOT, Machine, Wheels
from tests.deploy.sshd import Sshd

BROKEN_AT_IMPORT = ("interface.py", "from __future__ import annotations", 'raise RuntimeError("a bad day")')


@dataclass
class Outcome:
    """Exit code, what `--json` prints, and the progress."""

    code: int
    summary: dict[str, Any]
    progress: str

    @property
    def host(self) -> dict[str, Any]:
        """The only one's result."""
        (host,) = self.summary["hosts"]
        return dict(host)


class Deploy:
    """`python3 -m deploy` with a list of hosts."""

    def __init__(self, machine: Machine, sshd: Sshd, directory: Path) -> None:
        self.hosts: dict[str, dict[str, object]] = {}
        self._sshd = sshd
        self._directory = directory
        self.good = {
            "address": "127.0.0.1",
            "port": sshd.port,
            "python": sys.executable,
            "config": str(machine.config),
            "restart": machine.restart,
        }

    def command(self, wheel: Path, *options: str, known_hosts: Path | None = None) -> list[str]:
        listed = self._directory / "hosts.toml"
        # JSON's values, of these kinds, are TOML's.
        listed.write_text(
            "".join(
                f"[hosts.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
                for name, keys in self.hosts.items()
            )
        )
        command = [sys.executable, "-m", "deploy", "--hosts", str(listed), "--wheel", str(wheel), "--json"]
        # Nobody's own configuration or agent takes part.
        command += ["--ssh-config", "/dev/null", "--identity", str(self._sshd.identity)]
        return [*command, "--known-hosts", str(known_hosts or self._sshd.known_hosts), *options]

    def __call__(self, wheel: Path, *options: str, known_hosts: Path | None = None) -> Outcome:
        ended = subprocess.run(
            self.command(wheel, *options, known_hosts=known_hosts),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.stdout, ended.stderr
        return Outcome(ended.returncode, json.loads(ended.stdout), ended.stderr)


@pytest.fixture
def deploy(machine: Machine, sshd: Sshd, tmp_path: Path) -> Deploy:
    deploy = Deploy(machine, sshd, tmp_path)
    deploy.hosts["pi"] = deploy.good
    return deploy


def test_a_new_version_is_installed_and_its_interface_is_online(
    deploy: Deploy, machine: Machine, wheels: Wheels
) -> None:
    before, processes = machine.installed, machine.processes
    wheel = wheels.build()

    outcome = deploy(wheel)

    assert outcome.code == 0, outcome.progress
    assert outcome.summary["ok"]
    assert (outcome.host["state"], outcome.host["reason"]) == ("deployed", None)
    after = outcome.summary["version"]
    assert after == load(wheel).version == machine.installed
    assert (outcome.host["before"], outcome.host["after"]) == (before, after)
    assert outcome.host["interfaces"] == ["BLE Interface"]
    assert outcome.host["environment"] == str(machine.python)
    assert outcome.host["packages"] == {"rns-ble": [before, after]}
    assert f"installing {after}; {before} was there" in outcome.progress
    (interface,) = machine.status()["interfaces"]
    assert interface["online"]
    assert interface["version"] == after
    assert not processes & machine.processes


def test_another_build_of_the_same_version_takes_its_place(
    deploy: Deploy, machine: Machine, wheels: Wheels
) -> None:
    version, processes = machine.installed, machine.processes
    says_more = ("__init__.py", "_HOMES = {", "CHANGED = True\n\n_HOMES = {")

    outcome = deploy(wheels.build(says_more, version=version))

    assert outcome.code == 0, outcome.progress
    assert outcome.host["before"] == outcome.host["after"] == version
    assert machine.run("-c", "import rns_ble; print(rns_ble.CHANGED)") == "True\n"
    assert not processes & machine.processes


def test_a_version_that_does_not_come_up_is_taken_back_with_what_it_brought(
    deploy: Deploy, machine: Machine, wheels: Wheels
) -> None:
    old, new = wheels.other("a_thing", "1.0"), wheels.other("a_thing", "2.0")
    new.rename(machine.index / new.name)
    machine.run("-m", "pip", "install", "--quiet", "--no-index", str(old))
    before = machine.installed
    deploy.hosts["pi"]["wait"] = 2

    outcome = deploy(wheels.build(BROKEN_AT_IMPORT, requires="a_thing>=2"))

    assert outcome.code == 1
    assert not outcome.summary["ok"]
    assert outcome.host["state"] == "rolled back", outcome.progress
    assert "after 2 s" in outcome.host["reason"]
    assert outcome.host["before"] == outcome.host["after"] == before == machine.installed
    assert outcome.host["packages"] == {
        "rns-ble": [before, outcome.summary["version"]],
        "a-thing": ["1.0", "2.0"],
    }
    assert machine.run("-c", "import a_thing; print(a_thing.__version__)") == "1.0\n"
    assert (machine.home / "venv/bin/rns-ble").exists()
    (interface,) = machine.status()["interfaces"]
    assert interface["online"]
    assert interface["version"] == before


def test_a_restart_that_leaves_the_old_process_is_noticed(
    deploy: Deploy, machine: Machine, wheels: Wheels
) -> None:
    before = machine.installed
    wheel = wheels.build()
    # For the new version it does nothing, and for the old one what it should.
    deploy.hosts["pi"]["restart"] = (
        f"{machine.python} -m rns_ble.cli --version | grep {load(wheel).version} || {machine.restart}"
    )
    deploy.hosts["pi"]["wait"] = 1

    outcome = deploy(wheel)

    assert outcome.host["state"] == "rolled back", outcome.progress
    assert "was there before the restart" in outcome.host["reason"]
    assert machine.status()["interfaces"][0]["version"] == before == machine.installed


def test_a_host_finishes_alone_when_the_connection_is_lost(
    deploy: Deploy, machine: Machine, wheels: Wheels
) -> None:
    wheel = wheels.build()
    with subprocess.Popen(
        deploy.command(wheel), cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any("installing" in line for line in process.stderr), "it has not come that far"
        os.killpg(process.pid, signal.SIGKILL)  # ssh as well

    with (machine.home / "venv/bin/rnsd").open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)  # until the deployment has ended
    (interface,) = machine.status()["interfaces"]
    assert interface["online"]
    assert interface["version"] == load(wheel).version


def test_a_dry_run_tells_what_would_change_and_changes_nothing(
    deploy: Deploy, machine: Machine, wheels: Wheels
) -> None:
    before, processes = machine.installed, machine.processes
    deploy.hosts["pi"]["extras"] = ["bumble"]

    outcome = deploy(wheels.build(), "--dry-run")

    assert outcome.code == 0, outcome.progress
    assert outcome.host["state"] == "planned"
    assert outcome.host["packages"] == {"rns-ble": [before, outcome.summary["version"]]}
    assert machine.installed == before
    assert machine.processes == processes


def test_a_host_that_fails_does_not_hold_up_another(deploy: Deploy, machine: Machine, wheels: Wheels) -> None:
    deploy.hosts = {"gone": {**deploy.good, "port": 1}, "pi": deploy.good}

    outcome = deploy(wheels.build(), "--at-once", "1")

    assert outcome.code == 1
    gone, pi = outcome.summary["hosts"]
    assert (gone["host"], gone["state"]) == ("gone", "unreachable")
    assert "refused" in gone["reason"]
    assert (pi["host"], pi["state"]) == ("pi", "deployed"), outcome.progress
    assert machine.installed == outcome.summary["version"]


def test_a_host_with_another_key_gets_nothing(
    deploy: Deploy, machine: Machine, sshd: Sshd, wheels: Wheels
) -> None:
    before, processes = machine.installed, machine.processes

    outcome = deploy(wheels.build(), known_hosts=sshd.other_key())

    assert outcome.code == 1
    assert (outcome.host["state"], outcome.host["reason"]) == ("unreachable", "Host key verification failed.")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in outcome.host["output"]
    assert machine.installed == before
    assert machine.processes == processes


def test_a_host_whose_key_is_not_known_gets_nothing(deploy: Deploy, wheels: Wheels, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    outcome = deploy(wheels.build(), known_hosts=tmp_path / "empty")

    assert outcome.code == 1
    assert outcome.host["reason"] == "Host key verification failed."
    assert (tmp_path / "empty").read_text() == ""


def test_the_step_of_the_workflow_deploys_with_the_key_in_an_agent(
    deploy: Deploy, machine: Machine, sshd: Sshd, wheels: Wheels, tmp_path: Path
) -> None:
    yaml = pytest.importorskip(
        "ruamel.yaml", reason="it comes with check-jsonschema: pip install -e '.[lint]'"
    )
    workflow = yaml.YAML(typ="safe", pure=True).load(ROOT / ".github/workflows/deploy.yml")
    (step,) = [step for step in workflow["jobs"]["deploy"]["steps"] if step.get("name") == "Deploy"]
    runner = tmp_path / "runner"
    (runner / "wheel").mkdir(parents=True)
    wheel = shutil.copy(wheels.build(), runner / "wheel")
    deploy.command(wheel)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_WORKSPACE": str(ROOT),
        "RUNNER_TEMP": str(runner),
        "DEPLOY_KEY": sshd.identity.read_text(),
        "DEPLOY_HOSTS": (tmp_path / "hosts.toml").read_text(),
        "DEPLOY_KNOWN_HOSTS": sshd.known_hosts.read_text(),
        "NAMES": "pi",
        "DRY_RUN": "true",
    }
    assert set(step["env"]) <= set(environment)

    outcome = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome.returncode == 0, outcome.stderr
    assert f"rns-ble {machine.installed} -> {load(Path(wheel)).version}" in (runner / "summary").read_text()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"rnsd": "/nowhere/rnsd"}, "there is no /nowhere/rnsd"),
        ({"rnsd": "/bin/sh"}, "/bin/sh is no script of Python's"),
        ({"python": "no-such-python"}, "no-such-python"),
    ],
)
def test_what_does_not_fit_a_host_is_told_before_anything_changes(
    deploy: Deploy, machine: Machine, wheels: Wheels, keys: dict[str, object], reason: str
) -> None:
    before, processes = machine.installed, machine.processes
    deploy.hosts["pi"] = {**deploy.good, **keys}

    outcome = deploy(wheels.build())

    assert outcome.code == 1
    assert outcome.host["state"] == "refused", outcome.progress
    assert reason in outcome.host["reason"]
    assert machine.installed == before
    assert machine.processes == processes
