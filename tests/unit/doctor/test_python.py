"""`rns-ble doctor` on the Python that the interface runs in: real interpreters, made for the occasion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

import rns_ble
from rns_ble.cli import main, rnsd_python
from rns_ble.cli.doctor import python
from rns_ble.cli.doctor.case import Case, Program
from rns_ble.cli.doctor.dongle import check_extra
from rns_ble.cli.doctor.finding import State
from rns_ble.cli.rnsd_python import Installation

ROOT = Path(__file__).parents[3]


def rnsd(home: Path, interpreter: Path | str) -> Path:
    """An rnsd on PATH that runs with this interpreter."""
    script = home / "bin" / "rnsd"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!{interpreter}\nimport RNS\n")
    script.chmod(0o755)
    return script


def environment(directory: Path) -> Path:
    """A virtual environment with nothing in it; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    return directory / "bin" / "python"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python like the one that `pipx install rns` makes, before anything is injected."""
    return environment(tmp_path_factory.mktemp("pipx") / "pipx" / "venvs" / "rns")


@pytest.fixture(scope="module")
def without_bumble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has all that this one has, apart from Bumble."""
    interpreter = environment(tmp_path_factory.mktemp("venv") / "reticulum")
    [there] = interpreter.parents[1].glob("lib/python*/site-packages")
    here = Path(pytest.__file__).parents[1]
    for entry in here.iterdir():
        if not entry.name.startswith(("bumble", "_editable", "rns_ble")):
            (there / entry.name).symlink_to(entry)
    (there / "rns_ble").symlink_to(Path(rns_ble.__file__).parent)
    return interpreter


def test_an_rnsd_of_another_python_is_found_out(home: Path, bare: Path) -> None:
    script = rnsd(home, bare)
    case = Case(str(home))
    [finding] = python.check_python(case)
    assert finding.state is State.FAILED
    assert f"{script} runs with {bare} (pipx), which can't import rns_ble" in finding.found
    assert "No module named 'RNS'" in finding.found
    assert f"this rns-ble runs with {sys.executable}" in finding.found
    assert str(finding.mend).startswith("pipx inject --include-apps rns ")
    [reticulum] = python.check_reticulum(case)
    assert (reticulum.state, str(reticulum.mend)) == (State.FAILED, f"{bare} -m pip install rns")
    [version] = python.check_version(case)
    assert version.state is State.SKIPPED


def test_without_an_rnsd_on_path_the_one_beside_us_counts(home: Path) -> None:
    case = Case(str(home))
    assert case.program == Program(str(Path(sys.executable).with_name("rnsd")), sys.executable)
    for check in (python.check_python, python.check_reticulum, python.check_version):
        [finding] = check(case)
        assert finding.state is State.OK
    assert case.installation is not None
    assert case.installation.rns_ble == rns_ble.__version__


@pytest.mark.parametrize("place", [".config/systemd/user", "etc/systemd/system"])
@pytest.mark.parametrize("start", ["{bin}/rnsd --service", "-{bin}/python -m RNS.Utilities.rnsd"])
def test_the_rnsd_of_a_service_goes_before_the_one_of_the_shell(
    place: str, start: str, home: Path, bare: Path
) -> None:
    rnsd(home, sys.executable)
    script = rnsd(bare.parents[1], bare)
    unit = home / place / "rnsd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Service]\nType=simple\nExecStart={start.format(bin=bare.parent)}\n")
    assert script.exists()
    assert Case(str(home), root=home).program == Program(str(unit), str(bare))
    unit.write_text("[Service]\nExecStart=/nowhere/rnsd\n")
    assert Case(str(home), root=home).program == Program(str(home / "bin" / "rnsd"), sys.executable)


@pytest.mark.parametrize("place", ["etc/systemd/system", ".config/systemd/user"])
def test_a_drop_in_says_where_the_rnsd_of_a_service_is(place: str, home: Path, bare: Path) -> None:
    """As docs/deployment.md has it for an rnsd in a virtual environment."""
    rnsd(home, sys.executable)
    script = rnsd(bare.parents[1], bare)
    unit = home / place / "rnsd.service"
    drop_ins = unit.with_name("rnsd.service.d")
    drop_ins.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=%h/.local/bin/rnsd\n")
    (drop_ins / "override.conf").write_text(f"[Service]\nExecStart=\nExecStart={script}\n")
    (drop_ins / "unblock-bluetooth.conf").write_text("[Service]\nExecStartPre=-/bin/true\n")
    assert Case(str(home), root=home).program == Program(str(unit), str(bare))


def test_of_two_drop_ins_with_one_name_that_of_etc_counts(home: Path, bare: Path) -> None:
    script = rnsd(bare.parents[1], bare)
    for place, program in (("etc/systemd/system", str(script)), ("lib/systemd/system", "/nowhere/rnsd")):
        drop_in = home / place / "rnsd.service.d" / "override.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(f"[Service]\nExecStart=\nExecStart={program}\n")
    unit = home / "lib/systemd/system/rnsd.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/rnsd\n")
    assert Case(str(home), root=home).program == Program(str(unit), str(bare))


def test_an_rnsd_whose_python_has_gone(home: Path, bare: Path) -> None:
    """As after an upgrade of the system, which takes away what virtual environments link to."""
    broken = home / "venv" / "bin" / "python3"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/false\n")
    broken.chmod(0o755)
    rnsd(home, broken)
    [finding] = python.check_python(Case(str(home)))
    assert finding.state is State.FAILED
    assert f"{broken} does not work" in finding.found


def test_a_python_that_this_user_may_not_run_is_not_judged(home: Path) -> None:
    locked = home / "python3"
    locked.touch()
    rnsd(home, locked)
    case = Case(str(home))
    for check in (python.check_python, python.check_reticulum, python.check_version, check_extra):
        [finding] = check(case)
        assert finding.state is State.SKIPPED


def with_installation(**found: object) -> Case:
    case = Case()
    case.program = Program("/opt/rnsd", "/opt/venv/bin/python")
    there = {
        "interpreter": "/opt/venv/bin/python",
        "python": "3.11.2",
        "rns_ble": rns_ble.__version__,
        **found,
    }
    case.installation = Installation(**there)  # type: ignore[arg-type]
    return case


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("1.3.0", State.FAILED),
        ("1.4.1", State.FAILED),
        ("1.4.2", State.OK),
        ("1.5.12", State.OK),
        ("1.6.0", State.WARNING),
    ],
)
def test_which_reticulum_it_works_with(version: str, state: State) -> None:
    [finding] = python.check_reticulum(with_installation(rns=version))
    assert finding.state is state
    assert version in finding.found


def test_the_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest, beyond = (".".join(map(str, v)) for v in (python.OLDEST_RETICULUM, python.BEYOND_RETICULUM))
    assert f"rns>={oldest},<{beyond}" in project["dependencies"]
    oldest, beyond = (".".join(map(str, v)) for v in (python.OLDEST_PYTHON, python.BEYOND_PYTHON))
    assert project["requires-python"] == f">={oldest},<{beyond}"


def test_another_version_of_the_package_is_a_warning() -> None:
    [finding] = python.check_version(with_installation(rns_ble="0.0.1"))
    assert (finding.state, finding.found) == (State.WARNING, f"0.0.1 there, {rns_ble.__version__} here")
    assert str(finding.mend).startswith("/opt/venv/bin/python -m pip install ")


def test_a_python_that_is_too_old_is_named_as_the_reason() -> None:
    [finding] = python.check_python(with_installation(python="3.9.2", rns_ble=None, error="SyntaxError"))
    assert finding.state is State.FAILED
    assert "Python 3.9.2, and rns_ble needs 3.11 to 3.13" in finding.found


def test_the_extra_has_to_be_where_rnsd_runs(
    home: Path, without_bumble: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = rnsd_python.look_into(str(without_bumble))
    assert (there.rns_ble, there.bumble, there.error) == (rns_ble.__version__, False, None)
    rnsd(home, without_bumble)
    [finding] = check_extra(Case(str(home)))
    assert finding.state is State.FAILED
    assert str(finding.mend).startswith(f"{without_bumble} -m pip install ")
    assert "[bumble]" in str(finding.mend)
    # `install` says so, too, but not where it does not matter.
    for driver, warned in (("bumble", True), ("bleak", False)):
        directory = home / driver
        arguments = ["--driver", driver, *(("--transport", "usb:0") if driver == "bumble" else ())]
        assert main(["install", "--enable", "--config", str(directory), *arguments]) == 0
        err = capsys.readouterr().err
        assert (f"{without_bumble}, which lacks the extra bumble" in err) is warned


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could run it as somebody else")
def test_root_runs_the_python_of_another_users_process_as_that_user() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    interpreter = directory / "python3"
    interpreter.write_text('#!/bin/sh\necho "{\\"python\\": \\"$(/usr/bin/id -u)\\"}"\n')
    interpreter.chmod(0o755)
    assert rnsd_python.look_into(str(interpreter), user=65534).python == "65534"
    assert rnsd_python.look_into(str(interpreter)).python == "0"
    case = with_installation(rns="1.3.0")
    case.program = Program("/opt/rnsd", str(interpreter), user=65534)
    [finding] = python.check_reticulum(case)
    assert str(finding.mend).startswith("sudo -u nobody /opt/venv/bin/python -m pip install")
    assert isinstance(finding.mend, str), "so --fix does not run it"
    shutil.rmtree(directory)


def test_with_the_extra_all_is_well(home: Path) -> None:
    pytest.importorskip("bumble")
    [finding] = check_extra(Case(str(home)))
    assert finding.state is State.OK


def test_how_to_install_depends_on_the_kind_of_installation(
    bare: Path, without_bumble: Path, home: Path
) -> None:
    assert Installation(interpreter=str(bare)).kind == "pipx"
    assert rnsd_python.how_to_install(str(bare), "bumble", again=True).startswith(
        "pipx inject --force --include-apps rns "
    )
    assert Installation(interpreter=str(without_bumble)).kind == "virtual environment"
    system = home / "usr" / "bin" / "python3"
    (home / "usr" / "lib" / "python3.11").mkdir(parents=True)
    assert Installation(interpreter=str(system)).kind == "not in a virtual environment"
    assert "--break-system-packages" not in rnsd_python.how_to_install(str(system))
    (home / "usr" / "lib" / "python3.11" / "EXTERNALLY-MANAGED").touch()
    assert f"{system} -m pip install --user --break-system-packages " in rnsd_python.how_to_install(
        str(system)
    )
