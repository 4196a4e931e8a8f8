"""`rns-ble doctor` on BlueZ's settings, adapters and dongles, with the files of a system as they would be.

With the real BlueZ: tests/bluez/test_bluez_doctor.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rns_ble.cli import processes
from rns_ble.cli.doctor import bluez, dongle, interface, radio, settings
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Command, Edit, Finding, State
from rns_ble.cli.running import Running
from rns_ble.drivers.base import AdapterUnavailable, PermissionDenied
from rns_ble.drivers.bluez.bus import FROZEN
from rns_ble.drivers.bluez.examination import AdapterFacts, BlueZFacts, BlueZMissing, BusMissing
from rns_ble.protocol.gatt import SERVICE_UUID

ADAPTER = AdapterFacts(
    name="hci0",
    address="C0:FF:EE:00:00:00",
    powered=True,
    version=(5, 82),
    roles=frozenset({"central", "peripheral"}),
    advertisements=(0, 5),
    connect_device=False,
)


RNSD = processes.Process(
    pid=7,
    uid=1000,
    user="pi",
    command=("rnsd",),
    interpreter=None,
    directory=None,
    home=Path("/home/pi"),
    python_path=None,
)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def facts(*adapters: AdapterFacts, paired: tuple[tuple[str, str, frozenset[str]], ...] = ()) -> BlueZFacts:
    return BlueZFacts(pid=os.getpid(), adapters=adapters, paired=paired)


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# --- BlueZ's daemon ---


@pytest.fixture
def systemd(home: Path) -> None:
    """It runs the machine."""
    (home / bluez.SYSTEMD).mkdir(parents=True)


@pytest.mark.usefixtures("systemd")
@pytest.mark.parametrize(
    ("said", "state", "found", "mend"),
    [
        (PermissionDenied("no"), State.FAILED, "may not use it", "usermod -aG bluetooth"),
        (AdapterUnavailable(FROZEN), State.FAILED, "frozen", "systemctl restart bluetooth"),
    ],
)
def test_what_bluez_answers_instead(
    said: AdapterUnavailable, state: State, found: str, mend: str, case: Case
) -> None:
    case.bluez = said
    [finding] = bluez.check_daemon(case)
    assert finding.state is state
    assert found in finding.found
    assert mend in str(finding.mend)


@pytest.fixture
def no_bus(case: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    case.bluez = BusMissing("")
    return case


def executable(path: Path) -> None:
    put(path, "").chmod(0o755)


@pytest.mark.usefixtures("systemd")
def test_a_bus_that_does_not_run_is_started_and_one_that_is_not_there_installed(
    no_bus: Case, home: Path
) -> None:
    executable(home / "bin" / "apt-get")
    [finding] = bluez.check_bus(no_bus)
    assert isinstance(finding.mend, Command)
    assert finding.mend.argv == ("apt-get", "install", "dbus")
    executable(home / "bin" / "dbus-daemon")
    [finding] = bluez.check_bus(no_bus)
    assert isinstance(finding.mend, Command)
    assert finding.mend.argv == ("systemctl", "start", "dbus")


def test_without_systemd_the_bus_is_handed_in_or_started_by_hand(no_bus: Case, home: Path) -> None:
    """As in a container, in which `systemctl` would fail."""
    for program in ("apt-get", "dbus-daemon", "systemctl"):
        executable(home / "bin" / program)
    [finding] = bluez.check_bus(no_bus)
    assert finding.state is State.FAILED
    assert isinstance(finding.mend, str), "there is nothing to run"
    assert "in a container hand in the host's /run/dbus (-v /run/dbus:/run/dbus)" in finding.mend
    assert "elsewhere start the service dbus" in finding.mend


@pytest.mark.usefixtures("systemd")
def test_that_bluez_is_not_installed_is_seen_without_a_bus(no_bus: Case, home: Path) -> None:
    executable(home / "bin" / "apt-get")
    [finding] = bluez.check_daemon(no_bus)
    assert (finding.state, finding.found) == (State.FAILED, "it is not installed")
    assert isinstance(finding.mend, Command)
    assert finding.mend.argv == ("apt-get", "install", "bluez")
    put(home / "usr/libexec/bluetooth/bluetoothd", "")
    assert [finding.state for finding in bluez.check_daemon(no_bus)] == [State.SKIPPED]


def test_of_a_bus_elsewhere_nobody_knows_whether_it_has_bluez(case: Case) -> None:
    case.bluez = BusMissing("")  # at the address that the environment names
    assert [finding.state for finding in bluez.check_daemon(case)] == [State.SKIPPED]


def test_without_systemd_services_are_for_a_person_to_start(case: Case, home: Path) -> None:
    executable(home / "bin" / "apt-get")
    case.bluez = BlueZMissing("")
    [finding] = bluez.check_daemon(case)
    assert str(finding.mend).endswith("apt-get install bluez; for a container, on its host")
    executable(home / "bin" / "bluetoothd")
    [finding] = bluez.check_daemon(case)
    assert finding.mend == "start the service bluetooth; for a container, on its host"
    assert bluez.restart(case) == "restart the service bluetooth; for a container, on its host"


@pytest.mark.usefixtures("systemd")
def test_a_bluez_that_is_not_installed_is_told_from_one_that_does_not_run(case: Case, home: Path) -> None:
    case.bluez = BlueZMissing("")
    [finding] = bluez.check_daemon(case)
    assert (finding.state, finding.found, finding.mend) == (
        State.FAILED,
        "it is not installed",
        "install bluez",
    )
    put(home / "bin" / "apt-get", "").chmod(0o755)
    [finding] = bluez.check_daemon(case)
    assert isinstance(finding.mend, Command)
    assert finding.mend.argv == ("apt-get", "install", "bluez")
    put(home / "usr/libexec/bluetooth/bluetoothd", "")
    [finding] = bluez.check_daemon(case)
    assert (finding.state, finding.found) == (State.FAILED, "bluetoothd does not run")
    assert str(finding.mend).endswith("systemctl enable --now bluetooth")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((5, 66), "5.66: what is for one of several"),
        ((5, 69), "5.69: notifies each"),
        (None, "hidden by DeviceID"),
    ],
)
def test_what_a_bluez_offers(version: tuple[int, int] | None, said: str, case: Case) -> None:
    case.bluez = facts(replace(ADAPTER, version=version))
    [finding] = bluez.check_offers(case)
    assert finding.state is State.OK
    assert said in finding.found
    assert "ConnectDevice is off" in finding.found
    case.bluez = facts()
    assert [finding.state for finding in bluez.check_offers(case)] == [State.SKIPPED]


# --- main.conf ---

CONF = "[General]\n#ControllerMode = dual\n\n[GATT]\n# Default to 3\n#Channels = 3\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONF, CONF.replace("#Channels = 3", "Channels = 1")),
        (CONF.replace("#Channels = 3", "Channels=5"), CONF.replace("#Channels = 3", "Channels = 1")),
        ("[GATT]\n[Policy]\nChannels = 2\n", "[GATT]\nChannels = 1\n[Policy]\nChannels = 2\n"),
        ("[Policy]\nAutoEnable=true", "[Policy]\nAutoEnable=true\n[GATT]\nChannels = 1\n"),
        ("", "[GATT]\nChannels = 1\n"),
    ],
)
def test_a_setting_goes_where_bluez_reads_it(text: str, expected: str) -> None:
    assert settings.with_setting(text, "GATT", "Channels", "1") == expected
    assert settings.parse(expected).get("GATT", "Channels") == "1"
    assert settings.with_setting(expected, "GATT", "Channels", "1") == expected


@pytest.mark.parametrize(
    ("line", "version", "state", "said"),
    [
        ("", (5, 66), State.WARNING, "3, the default of 5.66"),
        ("", (5, 67), State.OK, "1, the default of 5.67"),
        ("Channels = 1", (5, 66), State.OK, "1"),
        ("Channels = 3", (5, 66), State.WARNING, "values overtake each other"),
        ("Channels = 3", (5, 82), State.WARNING, "bluetoothd 5.82 was seen to crash"),
        ("Channels = 3", None, State.WARNING, "values overtake each other"),
        ("", None, State.SKIPPED, "depends on BlueZ's version"),
    ],
)
def test_att_channels(
    line: str, version: tuple[int, int] | None, state: State, said: str, case: Case
) -> None:
    conf = put(case.root / settings.MAIN_CONF, f"[GATT]\n{line}\n")
    case.bluez = facts(replace(ADAPTER, version=version))
    finding = by_name(settings.check_settings(case))["Channels"]
    assert finding.state is state
    assert said in finding.found
    if state is State.WARNING:
        assert isinstance(finding.mend, Edit)
        conf.write_bytes(finding.mend.after)
        assert by_name(settings.check_settings(case))["Channels"].state is State.OK


def test_a_controller_without_low_energy_gets_it_back(case: Case) -> None:
    conf = put(case.root / settings.MAIN_CONF, "[General]\nControllerMode = bredr\n")
    case.bluez = facts(ADAPTER)
    finding = by_name(settings.check_settings(case))["ControllerMode"]
    assert (finding.state, finding.found) == (State.FAILED, "bredr: Low Energy is off")
    assert isinstance(finding.mend, Edit)
    conf.write_bytes(finding.mend.after)
    assert by_name(settings.check_settings(case))["ControllerMode"].found == "dual"


def test_only_a_paired_node_makes_repairing_matter(case: Case) -> None:
    phone = ("Pixel", "5C:F3:70:00:00:01", frozenset({SERVICE_UUID}))
    headphones = ("Buds", "5C:F3:70:00:00:02", frozenset({"0000110b-0000-1000-8000-00805f9b34fb"}))
    conf = put(case.root / settings.MAIN_CONF, "[General]\n")
    case.bluez = facts(ADAPTER, paired=(headphones,))
    assert by_name(settings.check_settings(case))["JustWorksRepairing"].state is State.OK
    case.bluez = facts(ADAPTER, paired=(headphones, phone))
    finding = by_name(settings.check_settings(case))["JustWorksRepairing"]
    assert finding.state is State.WARNING
    assert finding.mend == "if they do: bluetoothctl remove 5C:F3:70:00:00:01"
    conf.write_text("[General]\nJustWorksRepairing = always\n")
    assert by_name(settings.check_settings(case))["JustWorksRepairing"].found.startswith("always")


@pytest.mark.usefixtures("systemd")
def test_settings_that_bluetoothd_has_not_read_are_told(case: Case) -> None:
    conf = put(case.root / settings.MAIN_CONF, "")
    case.bluez = facts(ADAPTER)  # its process is this one, which has been started before
    os.utime(conf, (0, 0))
    assert by_name(settings.check_settings(case))["main.conf"].state is State.OK
    os.utime(conf)
    finding = by_name(settings.check_settings(case))["main.conf"]
    assert finding.state is State.WARNING
    assert str(finding.mend).endswith("systemctl restart bluetooth")


def test_without_bluez_its_settings_are_not_passed(case: Case) -> None:
    [finding] = settings.check_settings(case)
    assert finding.state is State.SKIPPED


# --- the adapter ---


def radio_of(case: Case) -> dict[str, Finding]:
    return by_name(radio.check_adapters(case))


def test_an_adapter_that_can_do_everything(case: Case) -> None:
    case.bluez = facts(ADAPTER)
    found = radio_of(case)
    assert {name: finding.state for name, finding in found.items()} == {
        "adapter": State.OK,
        "rfkill": State.SKIPPED,  # this system has no switches
        "power": State.OK,
        "roles": State.OK,
        "advertisements": State.OK,
    }
    assert found["advertisements"].found == "0 in use, room for 5 more"


@pytest.mark.parametrize(
    ("changes", "name", "state", "said"),
    [
        ({"powered": False}, "power", State.WARNING, "hci0 is off; the interface switches it on"),
        ({"roles": frozenset()}, "roles", State.FAILED, "can't do Low Energy"),
        ({"roles": frozenset({"central"})}, "roles", State.FAILED, "can't advertise"),
        ({"roles": None}, "roles", State.SKIPPED, "does not tell"),
        ({"advertisements": (5, 0)}, "advertisements", State.WARNING, "all 5 of hci0 are in use"),
        ({"advertisements": None}, "advertisements", State.SKIPPED, "hci0 has none"),
    ],
)
def test_an_adapter_that_lacks_something(
    changes: dict[str, object], name: str, state: State, said: str, case: Case
) -> None:
    case.bluez = facts(replace(ADAPTER, **changes))  # type: ignore[arg-type]
    finding = radio_of(case)[name]
    assert finding.state is state
    assert said in finding.found


def test_who_only_dials_needs_no_advertisement(case: Case, home: Path) -> None:
    section = "[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\nenable_peripheral = no\n"
    (home / "config").write_text(section)
    case.bluez = facts(replace(ADAPTER, roles=frozenset({"central"}), advertisements=None))
    found = radio_of(case)
    assert (found["roles"].state, found["advertisements"].state) == (State.OK, State.SKIPPED)


def test_an_adapter_that_is_named_and_not_there(case: Case, home: Path) -> None:
    (home / "config").write_text(
        "[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\nadapter = hci7 # the dongle\n"
    )
    case.bluez = facts(ADAPTER)
    finding = radio_of(case)["adapter"]
    assert (finding.state, finding.found) == (State.FAILED, "there is no hci7; BlueZ has hci0")
    assert isinstance(finding.mend, Edit)
    (home / "config").write_bytes(finding.mend.after)
    again = Case(str(home), root=home)
    again.bluez = facts(ADAPTER)
    assert radio_of(again)["adapter"].state is State.OK


def test_a_raspberry_pi_whose_bluetooth_is_switched_off_at_boot(case: Case, home: Path) -> None:
    boot = put(home / "boot/firmware/config.txt", "[all]\ndtoverlay=disable-bt\narm_64bit=1\n")
    case.bluez = facts()
    finding = radio_of(case)["adapter"]
    assert finding.state is State.FAILED
    assert isinstance(finding.mend, Edit)
    boot.write_bytes(finding.mend.after)
    assert boot.read_text() == "[all]\n# dtoverlay=disable-bt\narm_64bit=1\n"
    assert "plug one in" in str(radio_of(case)["adapter"].mend)


def test_an_adapter_that_only_the_kernel_has(case: Case, home: Path) -> None:
    """Its connections are beside it, and are no adapters."""
    for name in ("hci1", "hci1:11"):
        put(home / "sys/class/bluetooth" / name / "uevent", "")
    case.bluez = facts()
    finding = radio_of(case)["adapter"]
    assert (finding.state, finding.found) == (State.FAILED, "the kernel has hci1, and BlueZ does not show it")
    case.bluez = AdapterUnavailable(FROZEN)
    finding = radio_of(case)["adapter"]
    assert (finding.state, finding.found) == (State.SKIPPED, "BlueZ can't be asked; the kernel has hci1")


def test_the_program_that_has_an_adapter_for_itself_is_named(case: Case, home: Path) -> None:
    put(home / "sys/class/bluetooth/hci1/uevent", "")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inode = os.fstat(ours.fileno()).st_ino
        put(home / "proc/net/hci", f"sk RefCnt Rmem Wmem User Inode Parent\n0 2 0 0 0 {inode} 0\n")
        case.bluez = replace(facts(), pid=1)
        finding = radio_of(case)["adapter"]
    assert finding.found.startswith("hci1 is driven by another program: ")
    assert f"(process {os.getpid()}, user " in finding.found


def switches(home: Path, **states: str) -> None:
    for number, (name, state) in enumerate(states.items()):
        directory = home / f"sys/class/rfkill/rfkill{number}"
        soft, hard = state.split()
        kind = "wlan" if name.startswith("phy") else "bluetooth"
        for file, text in (("type", kind), ("name", name), ("soft", soft), ("hard", hard)):
            put(directory / file, f"{text}\n")


@pytest.mark.parametrize(
    ("state", "expected", "said"),
    [
        ("0 0", State.OK, "not blocked"),
        ("1 0", State.FAILED, "blocked by software"),
        ("0 1", State.FAILED, "blocked by a switch of the machine"),
        ("1 1", State.FAILED, "blocked by a switch of the machine"),
    ],
)
def test_rfkill(state: str, expected: State, said: str, case: Case, home: Path) -> None:
    switches(home, phy0="1 0", hci1="1 0", hci0=state)
    case.bluez = facts(replace(ADAPTER, powered=False))
    found = radio_of(case)
    assert found["rfkill"].state is expected
    assert said in found["rfkill"].found
    assert found["power"].state is (State.SKIPPED if expected is State.FAILED else State.WARNING)


@pytest.mark.parametrize(
    ("name", "online", "state"),
    [
        ("BLE Interface", False, State.FAILED),
        ("BLE Interface", True, State.WARNING),  # it is just finding out
        ("another", False, State.WARNING),
    ],
)
def test_an_adapter_that_is_off_is_a_failure_where_its_interface_runs_without_it(
    name: str, online: bool, state: State, case: Case
) -> None:
    case.bluez = facts(replace(ADAPTER, powered=False))
    case.running = Running([{"name": name, "driver": "bleak", "online": online}])
    assert radio_of(case)["power"].state is state


@pytest.mark.parametrize("name", ["c0ffee000000", "c0-ff-ee-00-00-00", "hci0"])
def test_an_adapter_is_found_however_the_interface_may_write_it(name: str, case: Case, home: Path) -> None:
    (home / "config").write_text(
        f"[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\nadapter = {name}\n"
    )
    case.bluez = facts(replace(ADAPTER, name="hci1", address="C0:FF:EE:00:00:01"), ADAPTER)
    assert radio_of(case)["adapter"].found == "hci0, C0:FF:EE:00:00:00"


def test_a_switch_that_takes_the_adapter_away_is_seen_without_it(case: Case, home: Path) -> None:
    switches(home, thinkpad="1 0")
    case.bluez = facts()
    finding = radio_of(case)["rfkill"]
    assert finding.state is State.FAILED
    assert str(finding.mend).endswith(f"echo 0 > {home}/sys/class/rfkill/rfkill0/soft'")
    put(home / "bin" / "rfkill", "").chmod(0o755)
    assert str(radio_of(case)["rfkill"].mend).endswith("rfkill unblock bluetooth")


def test_an_adapter_is_switched_on_with_what_can_name_it(case: Case, home: Path) -> None:
    off = replace(ADAPTER, powered=False)
    put(home / "bin" / "bluetoothctl", "").chmod(0o755)
    case.bluez = facts(off)
    assert str(radio_of(case)["power"].mend) == "bluetoothctl power on"
    case.bluez = facts(off, replace(off, name="hci1", address="C0:FF:EE:00:00:01"))
    assert "/org/bluez/hci0 org.freedesktop.DBus.Properties.Set" in str(radio_of(case)["power"].mend)


# --- dongles ---


@pytest.fixture
def with_transport(home: Path) -> Callable[[str], Finding]:
    """What is said of the transport of an interface with driver = bumble."""

    def look(transport: str, adapters: tuple[AdapterFacts, ...] = ()) -> Finding:
        (home / "config").write_text(
            "[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\ndriver = bumble\n"
            f'transport = "{transport}"\n'
        )
        case = Case(str(home), root=home)
        case.bluez = facts(*adapters)
        case.installation = None
        return by_name(dongle.check_dongles(case))["transport"]

    return look


def plug_in(home: Path, number: int, identity: str, *, composite: bool = False, adapter: str = "") -> Path:
    """A Bluetooth controller on USB; its device file."""
    place = home / f"sys/bus/usb/devices/1-{number}"
    vendor, product = identity.split(":")
    values = {"busnum": "1", "devnum": str(number), "idVendor": vendor, "idProduct": product}
    kind = ("ef", "02", "01") if composite else ("e0", "01", "01")
    values |= dict(zip(("bDeviceClass", "bDeviceSubClass", "bDeviceProtocol"), kind, strict=True))
    for name, value in values.items():
        put(place / name, f"{value}\n")
    function = place / f"1-{number}:1.0"
    names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
    for name, value in zip(names, ("e0", "01", "01"), strict=True):
        put(function / name, f"{value}\n")
    if adapter:
        put(function / "bluetooth" / adapter / "uevent", "")
    return put(home / f"dev/bus/usb/001/{number:03d}", "")


Look = Callable[..., Finding]


def test_dongles_on_usb(home: Path, with_transport: Look) -> None:
    finding = with_transport("usb:0")
    assert (finding.state, finding.mend) == (State.FAILED, "plug the dongle in, and look for it with lsusb")
    put(home / "sys/bus/usb/devices/1-1/bDeviceClass", "09\n")  # a hub
    plug_in(home, 3, "0a12:0001")
    plug_in(home, 5, "0b05:190e", composite=True)
    for transport, found in (
        ("usb:0", "0a12:0001"),
        ("usb:1", "0b05:190e"),
        ("usb:0B05:190E", "0b05:190e"),
    ):
        finding = with_transport(transport)
        assert finding.state is State.OK
        assert f"{transport} is {found} at {home}/dev/bus/usb/001/00" in finding.found
    assert with_transport("usb:2").state is State.FAILED
    assert with_transport("usb:0A12:0001/123").state is State.SKIPPED


def test_a_dongle_that_this_user_may_not_write_to_gets_a_rule(
    home: Path, with_transport: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = plug_in(home, 3, "0a12:0001")
    # Root may write to whatever the test could make.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != node)
    finding = with_transport("usb:0")
    assert finding.state is State.FAILED
    assert "may not write to it" in finding.found
    assert isinstance(finding.mend, Edit)
    assert b'ATTR{idVendor}=="0a12", ATTR{idProduct}=="0001"' in finding.mend.after
    put(home / dongle.UDEV_RULES, finding.mend.after.decode())
    assert "unplug it and plug it in again" in str(with_transport("usb:0").mend)


def test_a_dongle_that_somebody_else_has(home: Path, with_transport: Look) -> None:
    node = plug_in(home, 3, "0a12:0001", adapter="hci0")
    finding = with_transport("usb:0", (ADAPTER,))
    assert finding.state is State.WARNING
    assert "BlueZ uses it as hci0" in finding.found
    assert with_transport("usb:0", (replace(ADAPTER, powered=False),)).state is State.OK
    read, write = os.pipe()
    child = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'exec 3<"$0"; echo; exec /bin/sleep 1000', str(node)],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    try:
        os.read(read, 1)
        finding = with_transport("usb:0")
        assert finding.state is State.FAILED
        assert f"(process {child}, user " in finding.found
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_serial_ports(home: Path, with_transport: Look) -> None:
    port = home / "ttyACM0"
    finding = with_transport(f"serial:{port},1000000")
    assert (finding.state, finding.found) == (State.FAILED, f"there is no {port}")
    port.touch()
    assert with_transport(f"serial:{port},1000000").state is State.OK


def test_controllers_behind_tcp(with_transport: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"tcp-client:127.0.0.1:{server.getsockname()[1]}"
        assert with_transport(where).state is State.OK
    finding = with_transport(where)
    assert finding.state is State.FAILED
    assert "Connection refused" in finding.found
    assert "rns-ble ether" in str(finding.mend)


def test_adapters_taken_from_bluez(home: Path, with_transport: Look) -> None:
    assert with_transport("hci-socket:0").found == "there is no hci0"
    put(home / "sys/class/bluetooth/hci0/uevent", "")
    finding = with_transport("hci-socket:0", (ADAPTER,))
    assert (finding.state, finding.found) == (State.FAILED, "BlueZ uses hci0")
    assert "variant:boolean:false" in str(finding.mend)


@pytest.mark.parametrize(
    ("capabilities", "state", "said"),
    [
        (1 << dongle.CAP_NET_ADMIN, State.OK, "rnsd may take it"),
        ((1 << 40) - 1 & ~(1 << dongle.CAP_NET_ADMIN), State.FAILED, "which rnsd does not have"),
        (None, State.WARNING, "is seen when it runs"),
    ],
)
def test_the_capability_that_counts_is_that_of_the_program_which_runs_the_interface(
    capabilities: int | None, state: State, said: str, case: Case, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit may give it to that program alone; where none runs, nothing can be told."""
    monkeypatch.setattr(processes, "PROC", home)
    put(home / "sys/class/bluetooth/hci0/uevent", "")
    (home / "config").write_text(
        "[interfaces]\n[[A]]\ntype = BLEInterface\nenabled = yes\ndriver = bumble\ntransport = hci-socket:0\n"
    )
    case.bluez, case.installation = facts(), None
    case.owner = None
    if capabilities is not None:
        put(home / "7/status", f"Name:\trnsd\nCapPrm:\t0\nCapEff:\t{capabilities:016x}\nCapBnd:\t0\n")
        case.owner = RNSD
    finding = by_name(dongle.check_dongles(case))["transport"]
    assert finding.state is state
    assert said in finding.found.replace("rnsd (process 7, user pi)", "rnsd")
    assert processes.capabilities(8) is None


def test_a_transport_that_nobody_can_look_into_is_not_passed(with_transport: Look) -> None:
    assert with_transport("pty").state is State.SKIPPED


# --- the interface ---


def test_an_interface_that_does_not_run_is_not_passed(well: Path) -> None:
    [finding] = interface.check_interface(Case(str(well)))
    assert finding.state is State.SKIPPED
