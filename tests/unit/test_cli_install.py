"""`rns-ble install`: the shim, the section, and the user's configuration left as it was."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rns_ble.cli import main, reticulum_config, rnsd_python
from rns_ble.cli.errors import CommandError
from rns_ble.cli.install import SHIM

CONFIGURATIONS = {
    "Reticulum's own form": (
        "[reticulum]\n  share_instance = Yes\n\n[logging]\n  loglevel = 4\n\n"
        "# The interfaces\n[interfaces]\n\n  [[Default Interface]]\n    type = AutoInterface\n"
        "    enabled = Yes\n\n"
    ),
    "no [interfaces]": "[reticulum]\nenable_transport = no\n",
    "[interfaces] empty": "[interfaces]\n",
    "[interfaces] with a comment": "[ interfaces ] # all of them\n\n# none yet\n",
    "[interfaces] first": (
        "[interfaces]\n  [[LoRa]]\n    type = RNodeInterface\n    enabled = no\n"
        "    # txpower = 7\n\n\n# how much to say\n[logging]\nloglevel = 3\n"
    ),
    "a comment above the next": "[interfaces]\n[[A]]\ntype = AutoInterface\n# log\n[logging]\nlevel = 1\n",
    "nothing after the last line": "[interfaces]\n  [[A]]\n    type = AutoInterface",
    "no section and nothing after the last line": "[reticulum]\nenable_transport = no",
    "Windows line ends": "[reticulum]\r\n\r\n[interfaces]\r\n\r\n  [[A]]\r\n    type = AutoInterface\r\n",
    "tabs": "[interfaces]\n\t[[A]]\n\t\ttype = AutoInterface\n",
    "unindented": "[interfaces]\n\n[[A]]\ntype = AutoInterface\n[[B]]\ntype = UDPInterface\n\n[logging]\n",
    "subinterfaces": (
        "[interfaces]\n [[Multi]]\n  type = RNodeMultiInterface\n  [[[High]]]\n   frequency = 1\n[logging]\n"
    ),
    "a value of several lines": (
        "[reticulum]\nnote = '''\n[interfaces]\n[[none]]\n'''\n[interfaces]\n[[A]]\ntype = AutoInterface\n"
        'hint = """one\n[logging]\n# two\n"""\n'
    ),
    "lists, quotes, percent signs": "[interfaces]\n[[A, B]]\ndevices = a, b\n'odd key' = \"100% # yes\"\n",
    "a byte order mark": "\ufeff[reticulum]\n[interfaces]\n[[A]]\ntype = AutoInterface\n",
    "other languages": "# Schnittstellen, größer\n[interfaces]\n[[Küche]]\ntype = AutoInterface\n",
    "empty": "",
    "only comments": "# nothing\n\n# at all",
    "our name taken": "[interfaces]\n[[BLE Interface]]\ntype = AutoInterface\n",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def install(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["install", "--json", *arguments]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert isinstance(outcome, dict)
    return outcome


def inserted(before: bytes, after: bytes) -> bytes:
    """What was put in, in one place. Fails when anything else changed."""
    size = len(after) - len(before)
    places = range(len(before) + 1)
    place = next(
        place for place in places if after == before[:place] + after[place : place + size] + before[place:]
    )
    return after[place : place + size]


# --- where ---


def test_the_directory_is_the_one_that_reticulum_takes(home: Path) -> None:
    assert reticulum_config.find_directory() == home / ".reticulum"
    second = home / ".config" / "reticulum"
    second.mkdir(parents=True)
    assert reticulum_config.find_directory() == home / ".reticulum", (
        "a directory without config does not count"
    )
    (second / "config").touch()
    assert reticulum_config.find_directory() == second
    assert reticulum_config.find_directory("~/elsewhere") == home / "elsewhere"


# --- the shim ---


def test_the_shim_is_two_lines_that_import_the_interface(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = install(capsys, "--config", str(home))
    shim = home / "interfaces" / "BLEInterface.py"
    assert outcome["shim"] == str(shim)
    assert outcome["shim_written"] is True
    comment, code = shim.read_text().splitlines()
    assert comment.startswith("#")
    assert code == "from rns_ble.interface import BLEInterface as interface_class"
    before = shim.stat()
    assert install(capsys, "--config", str(home))["shim_written"] is False
    assert shim.stat() == before


def test_another_implementations_file_is_kept_beside(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shim = home / "interfaces" / "BLEInterface.py"
    shim.parent.mkdir()
    shim.write_text("class BLEInterface: ...\n")
    outcome = install(capsys, "--config", str(home))
    assert Path(str(outcome["shim_backup"])).read_text() == "class BLEInterface: ...\n"
    assert shim.read_text() == SHIM


def test_an_older_shim_of_ours_is_replaced_without_a_copy(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shim = home / "interfaces" / "BLEInterface.py"
    shim.parent.mkdir()
    shim.write_text("from rns_ble.interface import BLEInterface as interface_class\n")
    assert install(capsys, "--config", str(home))["shim_backup"] is None
    assert shim.read_text() == SHIM


# --- the section ---


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_section_is_added_and_every_other_byte_stays(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = home / "config"
    before = CONFIGURATIONS[name].encode()
    config.write_bytes(before)
    arguments = [
        "--config",
        str(home),
        "--enable",
        "--driver",
        "bumble",
        "--transport",
        "serial:/dev/ttyACM0,9600",
    ]
    outcome = install(capsys, *arguments)

    after = config.read_bytes()
    section = inserted(before, after).decode()
    assert "type = BLEInterface" in section
    assert ("\r\n" in section) == ("\r\n" in CONFIGURATIONS[name])
    assert Path(str(outcome["config_backup"])).read_bytes() == before

    read_before, read_after = reticulum_config.parse(before), reticulum_config.parse(after)
    old = read_before.get("interfaces", {})
    new = {key: value for key, value in read_after["interfaces"].items() if key not in old}
    assert list(new.values()) == [
        {
            "type": "BLEInterface",
            "enabled": "yes",
            "driver": "bumble",
            "transport": ["serial:/dev/ttyACM0", "9600"],
        }
    ]
    assert list(read_after["interfaces"]) == [*old, *new], "it comes last"
    assert {**read_after, "interfaces": old} == {**read_before, "interfaces": old}

    again = install(capsys, *arguments)
    assert (again["config_changed"], again["config_backup"], again["warnings"]) == (False, None, [])
    assert config.read_bytes() == after


def test_a_comment_below_the_last_interface_stays_with_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = home / "config"
    config.write_text(CONFIGURATIONS["[interfaces] first"])
    install(capsys, "--config", str(home), "--enable")
    assert config.read_text() == (
        "[interfaces]\n  [[LoRa]]\n    type = RNodeInterface\n    enabled = no\n    # txpower = 7\n"
        "\n  [[BLE Interface]]\n    type = BLEInterface\n    enabled = yes\n"
        "\n\n# how much to say\n[logging]\nloglevel = 3\n"
    )


sections = st.lists(
    st.sampled_from(
        [
            "\n",
            "# comment\n",
            "  # [[commented out]]\n",
            "[interfaces]\n",
            "[other]\n",
            "  [[A]]\n",
            "[[B]]\n",
            "    key = value\n",
            "note = '''one\n[logging]\n'''\n",
            "  [[[deep]]]\n",
        ]
    ),
    max_size=12,
)


@given(lines=sections, cut=st.booleans())
def test_whatever_the_configuration_it_is_edited_safely_or_not_at_all(lines: list[str], cut: bool) -> None:
    text = "".join(lines)
    before = (text.rstrip("\n") if cut else text).encode()
    try:
        configuration = reticulum_config.parse(before)
        name = reticulum_config.free_name(configuration)
        after = reticulum_config.with_block(before, name)
    except CommandError:
        return
    inserted(before, after)
    assert reticulum_config.parse(after)["interfaces"][name] == {"type": "BLEInterface", "enabled": "yes"}


def test_without_a_configuration_enable_writes_a_first_one(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = install(capsys, "--enable")
    assert outcome["config_directory"] == str(home / ".reticulum")
    configuration = reticulum_config.parse((home / ".reticulum" / "config").read_bytes())
    assert configuration["interfaces"]["Default Interface"]["type"] == "AutoInterface"
    assert configuration["interfaces"]["BLE Interface"] == {"type": "BLEInterface", "enabled": "yes"}
    assert install(capsys, "--enable")["config_changed"] is False


def test_who_had_no_configuration_is_told_to_start_rnsd_and_others_to_restart_one_that_runs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--enable"]) == 0
    assert "\nStart rnsd to bring the interface up.\n" in capsys.readouterr().out
    (home / "config").write_text("[interfaces]\n")
    assert main(["install", "--enable", "--config", str(home)]) == 0
    said = capsys.readouterr().out
    assert "\nStart rnsd, or restart it where it runs, to bring the interface up.\n" in said


def test_without_enable_the_section_is_printed_and_nothing_else_written(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config").write_text("[interfaces]\n")
    assert main(["install", "--config", str(home)]) == 0
    out = capsys.readouterr().out
    assert "  [[BLE Interface]]\n    type = BLEInterface\n    enabled = yes\n" in out
    assert str(home / "config") in out
    assert (home / "config").read_text() == "[interfaces]\n"
    assert sorted(path.name for path in home.iterdir()) == ["config", "interfaces"]


def test_an_interface_that_is_there_is_left_alone_and_compared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "[interfaces]\n[[Bluetooth]]\ntype = BLEInterface\nenabled = no\ndriver = bumble\ntransport = usb:0\n"
    )
    (home / "config").write_text(text)
    outcome = install(capsys, "--config", str(home), "--enable", "--driver", "bumble", "--transport", "usb:1")
    assert (home / "config").read_text() == text
    assert (outcome["found"], outcome["enabled"], outcome["config_changed"]) == (True, False, False)
    assert outcome["warnings"] == [
        "[[Bluetooth]] is in the configuration but not enabled: set `enabled = yes` there",
        "[[Bluetooth]] has transport = usb:0, not usb:1; it was left alone",
    ]
    assert main(["install", "--config", str(home), "--enable"]) == 0
    kept = f"{home / 'config'}, which has [[Bluetooth]]: left as it is, to be changed there\n"
    assert kept in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["[interfaces\n", "[a]\n[a]\n", "interfaces = 1\n", "[interfaces]\n[[[deep]]]\n"]
)
def test_a_configuration_that_reticulum_could_not_read_is_left_alone(
    text: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config").write_text(text)
    assert main(["install", "--config", str(home), "--enable"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"rns-ble install: {home / 'config'}: ")
    assert "Traceback" not in err
    assert (home / "config").read_text() == text
    assert [path.name for path in home.iterdir()] == ["config"]


def test_the_command_that_is_proposed_repeats_what_was_asked_for(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(home), "--driver", "bumble", "--transport", "tcp-client:127.0.0.1:7300"]
    for text in (None, "[interfaces]\n"):
        if text is not None:
            (home / "config").write_text(text)
        assert main(["install", *arguments]) == 0
        captured = capsys.readouterr()
        assert f"`rns-ble install --enable {shlex.join(arguments)}`" in captured.out
        assert captured.err == ""


# --- the file ---


def test_mode_and_link_are_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = home / "dotfiles" / "reticulum"
    real.parent.mkdir()
    real.write_text("[interfaces]\n")
    real.chmod(0o640)
    (home / "config").symlink_to(real)
    install(capsys, "--config", str(home), "--enable")
    assert (home / "config").is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "BLEInterface" in real.read_text()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config").write_text("[interfaces]\n")
    install(capsys, "--config", str(home))
    before = sorted(path.name for path in home.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device", "config")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["install", "--config", str(home), "--enable"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert (home / "config").read_text() == "[interfaces]\n"
    left = sorted(path.name for path in home.iterdir() if not path.name.endswith(".bak"))
    assert left == before


def test_two_backups_in_one_second_are_two_files(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("one")
    copies = {reticulum_config.back_up(config) for _ in range(3)}
    assert len(copies) == 3
    assert {copy.read_text() for copy in copies} == {"one"}


def test_a_directory_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--config", "/dev/null/reticulum"]) == 1
    err = capsys.readouterr().err
    assert "can't write /dev/null/reticulum" in err
    assert "--config" in err
    assert err.count("\n") == 1


# --- rnsd's Python ---


def script(directory: Path, *lines: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "rnsd"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def test_the_interpreter_of_a_script_is_found(tmp_path: Path) -> None:
    def of(*lines: str) -> str | None:
        return rnsd_python.interpreter_of(script(tmp_path, *lines))

    assert of("#!/opt/venv/bin/python3", "import RNS") == "/opt/venv/bin/python3"
    assert of("#! /opt/venv/bin/python3.11 -I") == "/opt/venv/bin/python3.11"
    assert (
        of("#!/bin/sh", "'''exec' '/opt/my venv/bin/python' \"$0\" \"$@\"", "' '''")
        == "/opt/my venv/bin/python"
    )
    assert of("#!/bin/sh", "exec rnsd.real") is None
    assert of("no script") is None
    assert rnsd_python.interpreter_of(tmp_path / "missing") is None


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter like a pipx installation of Reticulum has, without this package."""
    directory = tmp_path_factory.mktemp("pipx") / "pipx" / "venvs" / "rns"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    return directory / "bin" / "python"


def test_an_rnsd_that_cannot_import_the_package_is_a_warning(
    home: Path, other_python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rnsd = script(home / "bin", f"#!{other_python}")
    [warning] = install(capsys, "--config", str(home), "--driver", "bumble", "--transport", "usb:0")[
        "warnings"
    ]
    assert str(rnsd) in warning
    assert str(other_python) in warning
    assert "pipx inject --include-apps rns " in warning


def test_an_rnsd_that_can_import_it_is_none(home: Path) -> None:
    script(home / "bin", f"#!{sys.executable}")
    assert rnsd_python.warning() is None


@pytest.mark.parametrize(("driver", "warned"), [("bumble", True), ("bleak", False)])
def test_without_an_rnsd_on_path_it_is_the_one_beside_us_that_needs_the_extra(
    driver: str, warned: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the README's virtual environment, which is not activated."""
    assert not list(home.iterdir())
    assert rnsd_python.warning(driver) is None
    monkeypatch.setitem(sys.modules, "bumble", None)
    warning = rnsd_python.warning(driver)
    assert (warning is not None) is warned
    if warning is not None:
        assert warning.startswith(f"{Path(sys.executable).with_name('rnsd')} runs with {sys.executable}, ")
        assert "lacks the extra bumble" in warning
        assert rnsd_python.how_to_install(sys.executable, "bumble", again=True) in warning


def test_what_to_install_is_where_this_package_came_from() -> None:
    command = rnsd_python.how_to_install("/opt/venv/bin/python")
    assert command.startswith("/opt/venv/bin/python -m pip install ")
    [requirement] = shlex.split(command)[4:]
    assert requirement == "rns-ble" or (Path(requirement) / "pyproject.toml").is_file()
