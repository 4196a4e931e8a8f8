"""`rns-ble doctor` on Reticulum's configuration, the shim, and who runs Reticulum."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rns_ble.cli.absence import why_none
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Edit, State
from rns_ble.cli.doctor.interface import check_interface
from rns_ble.cli.doctor.reticulum import (
    check_configuration,
    check_in_force,
    check_sections,
    check_shared_instance,
    check_shim,
)
from rns_ble.cli.install import SHIM
from rns_ble.cli.processes import STARTED_WITHIN
from rns_ble.cli.running import Running


def apply(mend: object) -> None:
    assert isinstance(mend, Edit)
    mend.path.parent.mkdir(exist_ok=True)
    mend.path.write_bytes(mend.after)


# --- the configuration ---


def test_without_a_configuration_a_first_one_is_proposed(home: Path) -> None:
    [finding] = check_configuration(Case(str(home)))
    assert (finding.state, finding.found) == (State.FAILED, f"there is no {home}/config")
    [section] = check_sections(Case(str(home)))
    assert section.state is State.SKIPPED
    apply(finding.mend)
    for check in (check_configuration, check_sections):
        assert [finding.state for finding in check(Case(str(home)))] == [State.OK]


@pytest.mark.parametrize("text", ["[interfaces\n", "[a]\n[a]\n", "interfaces = 1\n"])
def test_a_configuration_that_reticulum_cannot_read_is_told_from_one_that_is_missing(
    text: str, home: Path
) -> None:
    (home / "config").write_text(text)
    [finding] = check_configuration(Case(str(home)))
    assert finding.state is State.FAILED
    assert finding.found.startswith(f"{home}/config: ")
    assert isinstance(finding.mend, str), "only its owner knows what was meant"
    assert [finding.state for finding in check_sections(Case(str(home)))] == [State.SKIPPED]


def test_a_configuration_that_cannot_be_opened(home: Path) -> None:
    (home / "config").mkdir()
    [finding] = check_configuration(Case(str(home)))
    assert (finding.state, finding.found) == (State.FAILED, f"{home}/config: Is a directory")


# --- the shim ---


@pytest.mark.parametrize(
    ("present", "state", "said"),
    [
        (None, State.FAILED, "there is no"),
        ("class BLEInterface: ...\n", State.FAILED, "another implementation's"),
        ("from rns_ble.interface import BLEInterface\n", State.WARNING, "another version"),
    ],
)
def test_a_shim_that_is_not_ours_is_replaced(
    present: str | None, state: State, said: str, home: Path
) -> None:
    shim = home / "interfaces" / "BLEInterface.py"
    if present is not None:
        shim.parent.mkdir()
        shim.write_text(present)
    [finding] = check_shim(Case(str(home)))
    assert finding.state is state
    assert said in finding.found
    apply(finding.mend)
    assert shim.read_text() == SHIM
    assert [finding.state for finding in check_shim(Case(str(home)))] == [State.OK]


# --- the section ---

SECTIONS = {
    "none": ("", "no interface of the type BLEInterface"),
    "not enabled": ("type = BLEInterface\nenabled = no", "[[Bluetooth]] is not enabled"),
    "enabled not said": ("type = BLEInterface", "[[Bluetooth]] is not enabled"),
    "no number": (
        "type = BLEInterface\nenabled = yes\nmin_rssi = loud",
        "min_rssi = loud; allowed: an integer from -127 to 20 dBm",
    ),
    "no such driver": (
        "type = BLEInterface\nenabled = yes\n  driver = bluez # Linux",
        "driver = bluez; allowed: bleak or bumble",
    ),
    "two things": (
        "type = BLEInterface\nenabled = yes\ndevice_name = far too long\nmax_connections = 0",
        "device_name = far too long; allowed: a text of 1 to 8 bytes",
    ),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_what_is_wrong_in_a_section_is_named_and_mended(name: str, home: Path) -> None:
    section, said = SECTIONS[name]
    config = home / "config"
    config.write_text(
        f"[interfaces]\n{'[[Bluetooth]]' if section else ''}\n{section}\n\n[logging]\nlevel = 4\n"
    )
    findings = list(check_sections(Case(str(home))))
    assert said in findings[0].found
    while failures := [f for f in check_sections(Case(str(home))) if f.state is State.FAILED]:
        apply(failures[0].mend)
    assert [finding.state for finding in check_sections(Case(str(home)))] == [State.OK]
    for line in section.splitlines():
        key = line.partition("=")[0].strip()
        assert key == "enabled" or line.strip() in config.read_text(), (
            "what was written there is still to be read"
        )


@pytest.mark.parametrize(
    ("line", "said", "after"),
    [
        ("min_rsi = -70", "nobody knows min_rsi; did you mean min_rssi?", "min_rssi = -70"),
        ("ifac_netkey = secret", "did you mean passphrase?", "passphrase = secret"),
        ("wibble = 1", "nobody knows wibble", "# wibble = 1"),
        (
            "transport = usb:0",
            "transport has no effect, it belongs to driver = bumble",
            "# transport = usb:0",
        ),
    ],
)
def test_what_has_no_effect_is_a_warning(line: str, said: str, after: str, home: Path) -> None:
    (home / "config").write_text(f"[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\n\t{line}\n")
    [warning] = [f for f in check_sections(Case(str(home))) if f.state is not State.OK]
    assert warning.state is State.WARNING
    assert said in warning.found
    apply(warning.mend)
    assert f"\n\t{after}\n" in (home / "config").read_text()
    assert [finding.state for finding in check_sections(Case(str(home)))] == [State.OK]


@pytest.mark.parametrize(
    ("line", "said"),
    [("", "driver = bumble needs transport"), ("transport = foo:0", "no kind of transport 'foo'")],
)
def test_values_that_make_no_sense_together_are_left_to_their_owner(line: str, said: str, home: Path) -> None:
    section = f"[[A]]\ntype = BLEInterface\nenabled = yes\ndriver = bumble\n{line}\n"
    (home / "config").write_text(f"[interfaces]\n{section}")
    [finding] = check_sections(Case(str(home)))
    assert finding.state is State.FAILED
    assert said in finding.found
    assert finding.mend == f"correct it in {home}/config"


def test_a_change_that_is_not_safe_is_only_said(home: Path) -> None:
    text = "[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\nmin_rsi = -1\nmin_rssi = -70\n"
    (home / "config").write_text(text)
    [warning] = [f for f in check_sections(Case(str(home))) if f.state is State.WARNING]
    assert warning.mend == f"call it min_rssi in [[A]] of {home}/config, by hand"


def test_of_several_sections_only_those_that_are_enabled_count(home: Path) -> None:
    (home / "config").write_text(
        "[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = no\n[[B]]\ntype = BLEInterface\nenabled = yes\n"
    )
    assert [finding.state for finding in check_sections(Case(str(home)))] == [State.SKIPPED, State.OK]


# --- a driver of one's own ---

OWN = """from custom_driver import SocketDriver
from rns_ble.interface import BLEInterface

class SocketRadio(BLEInterface):
    driver_class = lambda config: SocketDriver("/run/radio", config.adapter)

interface_class = SocketRadio
"""


@pytest.fixture
def own(home: Path, instance: str) -> Path:
    """A configuration with such an interface and no other, as docs/drivers.md has it; the directory."""
    (home / "interfaces").mkdir()
    (home / "interfaces" / "SocketRadio.py").write_text(OWN)
    (home / "config").write_text(
        f"[reticulum]\ninstance_name = {instance}\n\n"
        "[interfaces]\n[[Sock]]\ntype = SocketRadio\nenabled = yes\nadapter = 02:00:00:00:00:01\n"
    )
    return home


def test_a_driver_of_ones_own_is_not_looked_into_and_nothing_is_put_beside_it(own: Path) -> None:
    case = Case(str(own))
    [section] = check_sections(case)
    assert (section.state, section.found) == (
        State.SKIPPED,
        "[[Sock]]: type SocketRadio, a driver of one's own; doctor can't look into it",
    )
    [shim] = check_shim(case)
    assert shim.state is State.SKIPPED
    assert not case.interfaces_with("bleak"), "so BlueZ is not looked at"
    assert not case.interfaces_with("bumble")


def test_beside_a_driver_of_ones_own_an_interface_of_our_type_is_looked_at_as_ever(own: Path) -> None:
    with (own / "config").open("a") as config:
        config.write("[[BLE Interface]]\ntype = BLEInterface\nenabled = yes\nmin_rssi = loud\n")
    findings = {finding.found.partition("]]")[0]: finding for finding in check_sections(Case(str(own)))}
    assert findings["[[BLE Interface"].state is State.FAILED
    assert findings["[[Sock"].state is State.SKIPPED
    assert [finding.state for finding in check_shim(Case(str(own)))] == [State.FAILED]
    assert Case(str(own)).interfaces_with("bleak")


def test_of_a_driver_of_ones_own_that_is_not_enabled_it_is_said_how_to_enable_it(own: Path) -> None:
    config = own / "config"
    config.write_text(config.read_text().replace("enabled = yes", "enabled = no"))
    [finding] = check_sections(Case(str(own)))
    assert (finding.state, finding.found) == (State.FAILED, "[[Sock]] is not enabled")
    apply(finding.mend)
    assert "\nenabled = yes\n" in config.read_text()
    assert [finding.state for finding in check_sections(Case(str(own)))] == [State.SKIPPED]


@pytest.mark.parametrize("written", [True, False])
def test_a_driver_of_ones_own_that_runs_is_known_by_that(written: bool, own: Path) -> None:
    """Its file may import ble-reticulum's names only, and a program may add one without a section."""
    (own / "interfaces" / "SocketRadio.py").write_text("from BLEInterface import BLEInterface\n")
    if not written:
        without_interfaces(own, "mine")
    case = Case(str(own))
    case.running = Running([{"name": "Sock", "driver": "SocketDriver", "online": True}])
    [section] = check_sections(case)
    assert section.state is State.SKIPPED
    kind = "SocketRadio" if written else "SocketDriver"
    assert section.found.startswith(f"[[Sock]]: type {kind}, a driver of one's own")
    assert [finding.state for finding in check_shim(case)] == [State.SKIPPED]


def test_an_interface_of_ours_that_was_called_otherwise_when_it_started_is_no_driver_of_ones_own(
    well: Path,
) -> None:
    case = Case(str(well))
    case.running = Running([{"name": "Bluetooth", "driver": "bleak", "online": True}])
    assert [finding.state for finding in check_sections(case)] == [State.OK]


@pytest.mark.parametrize("kind", ["TCPClientInterface", "../SocketRadio", "Another"])
def test_other_interfaces_are_none_of_ours(kind: str, own: Path) -> None:
    (own / "interfaces" / "Another.py").write_text("import RNS  # not rns_ble\n")
    config = own / "config"
    config.write_text(config.read_text().replace("type = SocketRadio", f"type = {kind}"))
    [finding] = check_sections(Case(str(own)))
    assert finding.found == "no interface of the type BLEInterface in [interfaces]"


def test_a_driver_of_ones_own_that_is_not_up_is_told(own: Path) -> None:
    [finding] = check_interface(Case(str(own)))
    assert (finding.state, finding.found) == (
        State.SKIPPED,
        "Sock is not up: no program runs Reticulum here",
    )


def test_status_does_not_advise_an_interface_beside_a_driver_of_ones_own(own: Path) -> None:
    assert why_none(own).startswith(f"no Reticulum runs with {own}: start rnsd")


# --- who runs Reticulum ---

PROGRAM = """#!{python}
import RNS, sys, time
RNS.Reticulum(configdir=sys.argv[2], loglevel=0)
print("ready", flush=True)
time.sleep(1000)
"""


@contextmanager
def program(home: Path, name: str, option: str, directory: Path) -> Iterator[int]:
    """A program of this name that starts Reticulum; its process."""
    script = home / "bin" / name
    script.parent.mkdir(exist_ok=True)
    script.write_text(PROGRAM.format(python=sys.executable))
    script.chmod(0o755)
    process = subprocess.Popen([script, option, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with process.stdout:
            while process.stdout.readline() not in {"ready\n", ""}:
                pass
            assert process.poll() is None
            yield process.pid
    finally:
        process.kill()
        process.wait()


def without_interfaces(directory: Path, instance: str, more: str = "") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config").write_text(f"[reticulum]\ninstance_name = {instance}\n{more}\n[interfaces]\n")
    return directory


def test_when_nobody_runs_reticulum_the_interface_is_not_up(well: Path, instance: str) -> None:
    [finding] = check_shared_instance(Case(str(well)))
    assert finding.state is State.WARNING
    assert f"no program runs Reticulum as '{instance}'" in finding.found
    assert finding.mend == f"start rnsd --config {well}, or the service that runs it"


def test_the_program_that_came_first_brings_the_interfaces_up(home: Path, instance: str) -> None:
    """Its Python is looked into, not the one of an rnsd that came later."""
    directory = without_interfaces(home, instance)
    with program(home, "nomadnet", "--rnsconfig", directory) as first:
        case = Case(str(directory))
        [finding] = check_shared_instance(case)
        assert finding.state is State.OK
        assert f"nomadnet (process {first}, user " in finding.found
        assert case.program is not None
        assert (case.program.interpreter, case.installation is not None) == (sys.executable, True)
        with program(home, "rnsd", "--config", directory) as second:
            [finding] = check_shared_instance(Case(str(directory)))
            assert finding.state is State.WARNING
            assert f"nomadnet (process {first}" in finding.found
            assert f"rnsd (process {second}" in finding.found
            assert finding.mend == "let rnsd start first: end both, start rnsd, then nomadnet"


def test_where_a_program_looks_for_its_configuration_by_itself(
    home: Path, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the home that it was started with, which need not be ours."""
    theirs = without_interfaces(home / ".reticulum", instance)
    ours = without_interfaces(home / "ours", instance)
    with program(home, "rnsd", "", theirs):
        monkeypatch.setenv("HOME", str(home / "another"))
        [finding] = check_shared_instance(Case(str(ours)))
        assert finding.state is State.FAILED
        assert f"with {theirs}, so {ours} is not read" in finding.found
        assert [finding.state for finding in check_shared_instance(Case(str(theirs)))] == [State.OK]


def test_a_change_after_the_start_is_not_in_force_yet(home: Path, instance: str) -> None:
    directory = without_interfaces(home, instance)
    assert [finding.state for finding in check_in_force(Case(str(directory)))] == [State.SKIPPED]
    with program(home, "rnsd", "--config", directory):
        assert [finding.state for finding in check_in_force(Case(str(directory)))] == [State.OK]
        later = time.time() + 2 * STARTED_WITHIN
        os.utime(directory / "config", (later, later))
        [finding] = check_in_force(Case(str(directory)))
        assert (finding.state, finding.mend) == (State.WARNING, "restart rnsd")


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@pytest.mark.parametrize("by", ["unix", "tcp"])
def test_a_program_with_another_configuration_and_the_same_name(home: Path, instance: str, by: str) -> None:
    instance_port, control_port = free_ports()
    more = f"shared_instance_type = {by}\nshared_instance_port = {instance_port}\n"
    theirs = without_interfaces(home / "theirs", instance, f"{more}instance_control_port = {control_port}\n")
    ours = without_interfaces(home / "ours", instance, more)
    with program(home, "rnsd", "--config", theirs):
        [finding] = check_shared_instance(Case(str(ours)))
        assert finding.state is State.FAILED
        assert f"with {theirs}, so {ours} is not read" in finding.found
        [finding] = check_shared_instance(Case(str(theirs)))
        assert finding.state is State.OK


def test_where_nothing_is_shared_there_is_no_owner_to_find(home: Path) -> None:
    (home / "config").write_text("[reticulum]\nshare_instance = No\n[interfaces]\n")
    [finding] = check_shared_instance(Case(str(home)))
    assert finding.state is State.SKIPPED


def test_who_has_a_device_open_is_found(home: Path) -> None:
    from rns_ble.cli import processes

    device = home / "ttyACM0"
    device.touch()
    with device.open():
        assert [process.pid for process in processes.holders(str(device))] == [os.getpid()]
    assert processes.holders(str(device)) == []
