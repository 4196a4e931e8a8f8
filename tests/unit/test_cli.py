"""`rns-ble` as a program: what it costs to ask it something, and how it fails."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rns_ble
from rns_ble.cli import COMMANDS, main, rnsd_python
from rns_ble.cli.errors import CommandError, require


def run_main(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_asking_for_help_imports_nothing_heavy(argv: list[str]) -> None:
    script = (
        "import sys\nfrom rns_ble.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'RNS', 'LXMF', 'trio', 'trio_asyncio', 'asyncio', 'bleak', 'bumble', 'dbus_next'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_main(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert re.search(rf"^ +{name}\b", out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_configured_and_run(name: str) -> None:
    module = import_module(f"rns_ble.cli.{name}")
    module.configure(argparse.ArgumentParser())
    assert callable(module.run)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(capsys, "--version") == (0, f"rns-ble {rns_ble.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["instal"], "there is no command instal; did you mean install?"),
        (["42"], "there is no command 42; rns-ble --help lists them"),
        (["install", "--wrong"], "--wrong"),
        (["install", "--driver", "nonsense"], "driver = nonsense; allowed: bleak or bumble"),
        (["install", "--driver", "bumble"], "needs transport"),
        (["install", "--driver", "bumble", "--transport", "foo:0"], "there is no kind of transport 'foo'"),
        (
            ["install", "--adapter", "foo"],
            "adapter = foo: a name like hci0, or the adapter's Bluetooth address",
        ),
        (["demo", "--nodes", "1"], "'1' is not a number from 2 to 8"),
        (["demo", "--nodes", "9"], "'9' is not a number from 2 to 8"),
        (["demo", "--nodes", "two"], "'two' is not a number from 2 to 8"),
        (["demo", "--size", "0"], "'0' is not a size"),
        (["demo", "--size", "65M"], "'65M' is not a size"),
        (["demo", "--size", "-1"], "--size"),
        (["demo", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["demo", "--timeout", "-5"], "--timeout"),
        (["ether", "--listen", "localhost"], "'localhost' is not HOST:PORT"),
        (["radio"], "ACTION"),
        (["radio", "scan", "--seconds", "0"], "'0' is not a number of seconds"),
        (["monitor", "--interval", "0.05"], "'0.05' is not a number of seconds, 0.1 at least"),
        (["radio", "scan", "--driver", "nonsense"], "driver = nonsense; allowed: bleak or bumble"),
        (["radio", "scan", "--service-uuid", "37145b00"], "service_uuid = 37145b00; allowed: a UUID"),
        (["radio", "connect", "hci0"], "'hci0' is not a Bluetooth address"),
        (["radio", "connect", "C0:FF:EE:00:00:01", "--count", "0"], "'0' is not a number from 1 to 65535"),
        (["radio", "race", "--rounds", "many"], "'many' is not a number"),
        (["ether", "--listen", "127.0.0.1:70000"], "is not HOST:PORT"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    code, out, err = run_main(capsys, *argv)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    require(("json", "argparse"), extra="demo")
    with pytest.raises(CommandError, match=r"^no_such_a and no_such_b are not .*\[demo\]"):
        require(("json", "no_such_a", "no_such_b"), extra="demo")


@pytest.mark.parametrize(("command", "extra"), [("demo", "demo"), ("ether", "bumble")])
def test_without_bumble_demo_and_ether_say_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "bumble", None)
    code, out, err = run_main(capsys, command)
    assert (code, out) == (1, "")
    how = rnsd_python.how_to_install(sys.executable, extra, again=True)
    assert err == f"rns-ble {command}: bumble is not installed: {how}\n"
    assert f"[{extra}]" in how


@pytest.mark.parametrize("command", ["install", "doctor", "status", "scan", "monitor"])
def test_a_file_in_place_of_the_configuration_directory_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    config = tmp_path / "config"
    config.touch()
    code, out, err = run_main(capsys, command, "--config", str(config))
    assert (code, out) == (2, "")
    assert err == f"rns-ble {command}: --config takes a directory, and {config} is a file\n"


@pytest.mark.parametrize("command", ["scan", "monitor"])
def test_with_json_what_a_person_can_put_right_is_an_object_too(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--driver", "bumble"] if command == "scan" else []  # without the transport that it needs
    assert main([command, "--config", str(tmp_path / "nowhere"), *more, "--json"]) in {1, 2}
    told = capsys.readouterr()
    (error,) = json.loads(told.out)["errors"]
    assert told.err == f"rns-ble {command}: {error}\n"


def test_an_interrupt_is_one_line_and_exit_code_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rns_ble.cli.install.run", interrupted)
    assert run_main(capsys, "install") == (130, "", "rns-ble install: interrupted\n")


def test_a_reader_that_goes_away_early_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        outcome = subprocess.run(
            [sys.executable, "-m", "rns_ble.cli", "--help"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "Traceback" not in outcome.stderr


def test_an_ether_for_other_machines_says_what_they_call_this_one() -> None:
    command = [sys.executable, "-m", "rns_ble.cli", "ether", "--json", "--until-stdin-ends", "--listen"]
    ended = subprocess.run([*command, "0.0.0.0:0"], input="", capture_output=True, text=True, check=True)
    assert f'"transport": "tcp-client:{socket.gethostname()}:' in ended.stdout
