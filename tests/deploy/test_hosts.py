"""The list of hosts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import hosts
from deploy.__main__ import main
from deploy.errors import DeployError
from deploy.session import Ssh, deploy_to
from deploy.wheel import load
from tests.deploy.conftest import ROOT, Wheels


def listed(directory: Path, text: str) -> Path:
    path = directory / "hosts.toml"
    path.write_text(text)
    return path


def test_the_example_can_be_read() -> None:
    gateway, laptop, boat = hosts.read(ROOT / "deploy/hosts.example.toml")
    assert (gateway.name, gateway.sudo, gateway.wait) == ("gateway", True, 60)
    assert (laptop.port, laptop.scope, laptop.service) == (2222, None, "rnsd.service")
    assert (boat.extras, boat.restart, boat.wait) == (("bumble",), "/srv/mesh/restart", 120)


def test_a_name_is_an_address_and_what_a_host_says_goes_before_the_defaults(tmp_path: Path) -> None:
    path = listed(tmp_path, "[defaults]\nport = 1\nwait = 2.5\n[hosts.a]\n[hosts.b]\nport = 3\n")
    a, b = hosts.read(path)
    assert (a.address, a.port, a.wait) == ("a", 1, 2.5)
    assert (b.address, b.port) == ("b", 3)
    assert hosts.read(path, ("b",)) == [b]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no host"),
        ("hosts = 1", "`hosts` is no table"),
        ("[host.a]", "unknown `host`"),
        ("[hosts.a", "is not TOML"),
        ("[hosts.a]\nbranch = 'main'", "host a: unknown key `branch`"),
        ("[hosts.a]\nport = '22'", "`port` must be an integer, not '22'"),
        ("[hosts.a]\nport = true", "`port` must be an integer, not True"),
        ("[hosts.a]\nsudo = 1", "`sudo` must be true or false"),
        ("[hosts.a]\nscope = 'mine'", "`scope` must be system or user"),
        ("[hosts.a]\nscope = 'user'\nsudo = true", "`sudo` is for a service of the system"),
        ("[hosts.a]\nextras = [1]", "`extras` must be a list of texts"),
        ("[hosts.a]\naddress = '-oProxyCommand=date'", "is no address"),
    ],
)
def test_a_list_that_says_something_else_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DeployError, match="hosts") as raised:
        hosts.read(listed(tmp_path, text))
    assert reason in str(raised.value)


def test_a_host_that_is_not_there_is_an_error_that_names_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = listed(tmp_path, "[hosts.a]\n[hosts.b]\n")
    assert main(["--hosts", str(path), "c"]) == 2
    assert capsys.readouterr().err == f"deploy: {path} has no host 'c'; it has a, b\n"


def test_only_a_wheel_of_this_project_is_deployed(tmp_path: Path, wheels: Wheels) -> None:
    with pytest.raises(DeployError, match="is a wheel of a_thing, not of rns-ble"):
        load(wheels.other("a_thing", "3.0"))
    (tmp_path / "no.whl").write_text("no")
    with pytest.raises(DeployError, match="is no wheel"):
        load(tmp_path / "no.whl")
    with pytest.raises(DeployError, match="No such file"):
        load(tmp_path / "nowhere.whl")


def test_what_ssh_splits_and_expands_in_a_path_is_quoted(tmp_path: Path) -> None:
    ssh = Ssh(known_hosts=Path("/a b/50%/known_hosts"))
    command = ssh.command(hosts.Host(name="a", address="a"))
    assert 'UserKnownHostsFile="/a b/50%%/known_hosts"' in command
    assert "StrictHostKeyChecking=yes" in command
    assert command[-2] == "a"


@pytest.mark.parametrize(
    ("ssh", "reason"),
    [
        (None, "can't run ssh: No such file or directory"),
        ("head -c 3000000 /dev/zero; cat", "it sends a line of more than 1048576 bytes"),
        ("head -c 3000000 /dev/zero >&2; cat", "it sends a line of more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_with_one_session_is_no_other_hosts_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str | None, reason: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if ssh else str(tmp_path))
    if ssh:
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{ssh}\n")
        (tmp_path / "ssh").chmod(0o755)
    host = hosts.Host(name="a", address="a")
    result = asyncio.run(deploy_to(host, b"", Ssh(), 30.0, print))
    assert (result.state, result.reason) == ("unreachable", reason)


def test_nothing_has_to_be_installed_where_it_is_started() -> None:
    # -I -S: of this Python there is the standard library alone, and no PYTHONPATH.
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = ['--help']; "
    code += "runpy.run_module('deploy', run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--dry-run" in ended.stdout
