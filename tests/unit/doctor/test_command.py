"""`rns-ble doctor` as a command: what it shows, what it mends, and how it asks."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rns_ble.cli import main, reticulum_config
from rns_ble.cli.doctor.finding import Command, Edit, Finding, State, failed, ok, skipped, warning
from rns_ble.cli.doctor.mending import mend_all
from rns_ble.cli.doctor.screen import Screen

BROKEN = """# mine
[reticulum]
instance_name = {instance}

[interfaces]
  [[BLE Interface]]
    type = BLEInterface
    enabled = no
    min_rsi = -70
    power_mode = fast  # as it should be

[logging]
loglevel = 4
"""


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and what was found: the last finding of each name."""
    code = main(["doctor", "--json", *arguments])
    [line] = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["ok"] is (code == 0)
    assert all(set(check) == {"name", "state", "found", "mend"} for check in report["checks"])
    assert all(check["mend"] for check in report["checks"] if check["state"] == "failed")
    return code, {check["name"]: check for check in report["checks"]}


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_without_d_bus_it_says_so_in_words(well: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = doctor(capsys, "--config", str(well))
    assert code == 1
    assert checks["D-Bus"]["state"] == "failed"
    assert checks["D-Bus"]["found"].startswith(f"there is no system bus at unix:path={well}/nowhere")
    for name in ("BlueZ", "BlueZ's version", "adapter"):
        assert checks[name]["state"] == "skipped", "what can't be asked is not passed"
    for name in ("Python", "Reticulum", "rns_ble", "configuration", "shim", "section"):
        assert checks[name]["state"] == "ok"


@pytest.mark.usefixtures("locked_rnsd")
def test_fix_mends_a_broken_set_up_and_keeps_what_was_there(
    home: Path, instance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shim = home / "interfaces" / "BLEInterface.py"
    shim.parent.mkdir()
    shim.write_text("class BLEInterface: ...\n")
    before = BROKEN.format(instance=instance)
    (home / "config").write_text(before)
    mended = ("shim", "section")
    _, checks = doctor(capsys, "--config", str(home))
    assert [checks[name]["state"] for name in mended] == ["failed", "failed"]
    assert (home / "config").read_text() == before, "looking changes nothing"

    _, checks = doctor(capsys, "--config", str(home), "--fix", "--yes")
    assert [checks[name]["state"] for name in mended] == ["ok", "ok"]
    assert (home / "config").read_text() == before.replace("enabled = no", "enabled = yes").replace(
        "min_rsi", "min_rssi"
    ).replace("power_mode", "# power_mode")
    kept = sorted(home.glob("config.*.bak"), key=lambda path: path.stat().st_mtime_ns)
    assert before in [path.read_text() for path in kept]
    assert [path.read_text() for path in shim.parent.glob("*.bak")] == ["class BLEInterface: ...\n"]

    after = files(home)
    doctor(capsys, "--config", str(home), "--fix", "--yes")
    assert files(home) == after, "a second time there is nothing to do"


@pytest.mark.usefixtures("locked_rnsd")
def test_fix_sets_up_what_is_not_there_at_all(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, checks = doctor(capsys, "--fix", "--yes")
    for name in ("configuration", "shim", "section"):
        assert checks[name]["state"] == "ok"
    configuration = reticulum_config.parse((home / ".reticulum" / "config").read_bytes())
    assert list(reticulum_config.ble_sections(configuration)) == ["BLE Interface"]


@pytest.mark.usefixtures("locked_rnsd")
def test_fix_puts_nothing_beside_a_driver_of_ones_own(
    home: Path, instance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "interfaces").mkdir()
    (home / "interfaces" / "SocketRadio.py").write_text(
        "from rns_ble.interface import BLEInterface\ninterface_class = BLEInterface\n"
    )
    (home / "config").write_text(
        f"[reticulum]\ninstance_name = {instance}\n"
        "[interfaces]\n[[Sock]]\ntype = SocketRadio\nenabled = yes\n"
    )
    before = files(home)
    code, checks = doctor(capsys, "--config", str(home), "--fix", "--yes")
    assert code == 0
    assert files(home) == before
    assert {name: checks[name]["state"] for name in ("shim", "section", "BlueZ")} == {
        "shim": "skipped",
        "section": "skipped",
        "BlueZ": "skipped",
    }
    assert "D-Bus" not in checks


def on_a_terminal(answers: str, *arguments: str) -> str:
    """What it writes to stderr when somebody answers at a terminal."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answers.encode())
        outcome = subprocess.run(
            [sys.executable, "-m", "rns_ble.cli", "doctor", *arguments],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return outcome.stderr


@pytest.mark.usefixtures("locked_rnsd")
def test_each_change_is_shown_and_asked_for(well: Path) -> None:
    shim = well / "interfaces" / "BLEInterface.py"
    ours = shim.read_text()
    shim.unlink()
    config = well / "config"
    wrong = config.read_text() + "min_rsi = -70\n"
    config.write_text(wrong)
    shown = on_a_terminal("n\ny\n", "--config", str(well), "--fix")
    assert f"+++ {shim}, mended\n@@ -0,0 +1,2 @@\n+# Written by" in shown
    assert "\n-min_rsi = -70\n+min_rssi = -70\n" in shown
    assert shown.count("Do this? [y/N]") == 2
    assert not shim.exists(), "that one was refused"
    assert "min_rssi" in config.read_text()
    shown = on_a_terminal("y\n", "--config", str(well), "--fix")
    assert shown.count("Do this?") == 1
    assert shim.read_text() == ours


def test_fix_without_anybody_to_ask_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert main(["doctor", "--fix"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert main(["doctor", "--yes"]) == 2
    assert "--yes goes with --fix" in capsys.readouterr().err
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("locked_rnsd")
def test_a_terminal_that_cannot_show_the_marks_gets_others(well: Path) -> None:
    shutil.rmtree(well / "interfaces")
    outcome = subprocess.run(
        [sys.executable, "-m", "rns_ble.cli", "doctor", "--config", str(well)],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"},
        capture_output=True,
        check=False,
    )
    shown = outcome.stdout.decode("ascii").splitlines()
    assert outcome.returncode == 1
    assert any(line.startswith("+ configuration      ") for line in shown)
    [shim] = [
        number for number, line in enumerate(shown) if line.startswith("x shim               there is no")
    ]
    assert any(line.strip().startswith(f"-> write {well}/interfaces") for line in shown[shim:])
    assert shown[-3].endswith(" checks failed.")
    assert shown[-2] == "What is marked with - was not looked at."
    assert shown[-1].startswith(f"`rns-ble doctor --config {well} --fix` mends what it can")


class Terminal(io.TextIOWrapper):
    """What stands for one, for it takes colours."""

    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_and_who_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        buffer = io.BytesIO()
        stream = Terminal(buffer, encoding="utf-8", write_through=True)
        Screen(stream).show([ok("power", "on"), failed("rfkill", "blocked", "a switch")])
        return buffer.getvalue().decode()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown().splitlines()[0] == f"\033[32m✔\033[0m {'power':19}on"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown().splitlines() == [
        f"✔ {'power':19}on",
        f"✘ {'rfkill':19}blocked",
        f"{'':21}→ a switch",
        "",
        "1 of 2 checks failed.",
    ]


WORKS = "Nothing keeps the interface from working; see what is marked with !."
SKIPPED = "What is marked with – was not looked at."  # noqa: RUF001  (a dash)


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([ok("a", "")], ["All is well."]),
        ([ok("a", ""), skipped("b", "")], ["All is well.", SKIPPED]),
        ([warning("a", ""), skipped("b", "")], [WORKS, SKIPPED]),
        ([failed("a", "", ""), warning("b", "")], ["1 of 2 checks failed."]),
    ],
)
def test_the_last_lines_say_no_more_than_was_found(
    findings: list[Finding], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Screen(sys.stdout).show(findings)
    assert capsys.readouterr().out.rpartition("\n\n")[2].splitlines() == said


# --- mending ---


def test_one_change_may_bring_up_the_next_and_none_is_tried_twice(tmp_path: Path) -> None:
    """The first command does not help, the second one brings up an edit."""
    switch, file = tmp_path / "switch", tmp_path / "file"
    code = "pass", f"open({str(switch)!r}, 'w')"
    commands = [Command((sys.executable, "-c", line)) for line in code]

    def examine() -> list[Finding]:
        if not switch.exists():
            return [failed("switch", "off", command) for command in commands]
        if not file.exists():
            return [ok("switch", "on"), failed("file", "missing", Edit("write it", file, b"text"))]
        return [ok("file", "there")]

    said: list[str] = []
    findings, done = mend_all(examine, lambda: True, said.append, None)
    assert [finding.state for finding in findings] == [State.OK]
    assert done == [*map(str, commands), "write it"]
    assert file.read_text() == "text"
    assert mend_all(examine, lambda: True, said.append, None) == (findings, [])


def test_a_command_that_fails_is_said_and_not_repeated(tmp_path: Path) -> None:
    command = Command((sys.executable, "-c", "raise SystemExit(3)"))
    missing = Command((str(tmp_path / "no-such-program"),))
    said: list[str] = []
    findings, done = mend_all(
        lambda: [failed("it", "is broken", command), failed("that", "too", missing)],
        lambda: True,
        said.append,
        None,
    )
    assert (len(findings), done) == (2, [])
    assert "That has failed, with exit code 3.\n" in said
    assert any("No such file or directory" in line for line in said)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights for a moment")
def test_what_needs_root_is_told_and_not_done() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    file = directory / "system"
    file.write_text("as it was\n")
    mends = Edit("write it", file, b"otherwise"), Command(("systemctl", "restart", "bluetooth"), as_root=True)
    said: list[str] = []
    os.setresuid(65534, 65534, 0)
    try:
        assert str(mends[1]) == "sudo systemctl restart bluetooth"
        mend_all(
            lambda: [failed("x", "y", mend) for mend in mends], lambda: True, said.append, str(directory)
        )
    finally:
        os.setresuid(0, 0, 0)
    assert file.read_text() == "as it was\n"
    shutil.rmtree(directory)
    told = [line for line in said if line.startswith("This is for root to do: ")]
    assert told[0] == f"This is for root to do: sudo rns-ble doctor --fix --config {directory}\n"
    assert told[1] == "This is for root to do: sudo systemctl restart bluetooth\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could do it")
def test_root_writes_nothing_where_another_user_could_put_a_link(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "theirs" / "BLEInterface.py"
    secret.write_text("as it was\n")
    link.parent.mkdir()
    link.symlink_to(secret)
    os.chown(link.parent, 65534, 65534)
    new = link.with_name("new")
    said: list[str] = []
    mends = [Edit("write it", link, b"otherwise"), Edit("write another", new, b"otherwise")]
    mend_all(lambda: [failed("x", "y", mend) for mend in mends], lambda: True, said.append, str(tmp_path))
    assert (secret.read_text(), new.exists()) == ("as it was\n", False)
    told = [line for line in said if line.startswith("This is for nobody to do: sudo -u nobody ")]
    assert len(told) == 2


def test_what_others_have_named_is_text_on_the_terminal() -> None:
    buffer = io.BytesIO()
    stream = Terminal(buffer, encoding="utf-8", write_through=True)
    Screen(stream).show([failed("adapter", "\033]0;evil\a Küche", "end \033[2J")])
    assert "\033]" not in buffer.getvalue().decode()
    assert "\033[2J" not in buffer.getvalue().decode()
    assert "?]0;evil? Küche" in buffer.getvalue().decode()
