"""`status`, `scan` and `monitor` without a radio: what they show, and what they say when nobody answers."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import rns_ble
from rns_ble.candidate import Verdict
from rns_ble.cli import main, running, scan, status
from rns_ble.cli.running import Running, as_user, ask_all, not_yours
from rns_ble.cli.tables import Column, duration, plain, size, table
from rns_ble.cli.views import IN_FLIGHT, LINKED, Line, Rates, Style, Trends, overview, why
from rns_ble.protocol.fragmentation import ReassemblyStatistics
from rns_ble.status import CandidateStatus, InterfaceStatus, LinkStatus, MeshStatus, PeerStatus, as_json
from rns_ble.status_socket import address_in, file_name, opened

ME = pwd.getpwuid(os.getuid()).pw_name
LINK = LinkStatus("02:00:00:00:00:02", "central", 517, -50, "socket", 75.0, 0.1, 0)
PEER = PeerStatus("ab" * 16, (LINK,), 75.0, 10, 2000, 20, 4000, 3, 300, 1, 2, 0, ReassemblyStatistics())
LEFT_ALONE = CandidateStatus(
    *("02:00:00:00:00:03", "shed\x1b[2J", -70, 1.4, None, 3, 3, "blacklisted", "failed too often"),
    *(42.0, None, 42.0, 18.0, "it lacks RX, TX"),
)
MESH = MeshStatus(
    *("cd" * 16, "02:00:00:00:00:01", True, False, 1, 7, ("02:00:00:00:00:04",), 2),
    (PEER,),
    (
        LEFT_ALONE,
        replace(LEFT_ALONE, address=LINK.address, verdict="linked", verdict_text="linked", verdict_ends=None),
    ),
)
ONLINE = InterfaceStatus(
    *("BLE Interface", True, None, "bleak", "hci1", None, MESH.address),
    *(4711, rns_ble.__version__, "1.5.7", 3700.0, 5, MESH),
)
OFFLINE = replace(ONLINE, name="B", online=False, offline_reason="the adapter is off: rfkill", mesh=None)


def told(status: InterfaceStatus) -> dict[str, Any]:
    """As a client has it."""
    interface: dict[str, Any] = json.loads(as_json(status))
    return interface


@contextmanager
def interface(directory: Path, name: str, *answers: bytes | None) -> Iterator[Path]:
    """A socket of that interface's, each connection to which gets the next of these answers; None: none, and
    it is held open.
    """
    sockets = directory / "storage" / "rns_ble"
    sockets.mkdir(parents=True, exist_ok=True)

    def serve() -> None:
        with ExitStack() as held:
            for answer in answers:
                connection, _ = listening.accept()
                if answer is None:
                    held.enter_context(connection)
                    continue
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)
            over.wait()

    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listening, opened(sockets) as descriptor:
        listening.bind(address_in(descriptor, file_name(name)))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sockets / file_name(name)
        finally:
            over.set()
            thread.join()


@contextmanager
def drops(directory: Path, part: bytes, pause: float) -> Iterator[None]:
    """A socket of interface A's that answers with this again and again, as long as anybody listens."""
    sockets = directory / "storage" / "rns_ble"
    sockets.mkdir(parents=True)

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            while True:
                connection.sendall(part)
                time.sleep(pause)

    with socket.socket(socket.AF_UNIX) as listening, opened(sockets) as descriptor:
        listening.bind(address_in(descriptor, file_name("A")))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- asking ---


def test_nobody_is_there_without_a_directory_and_in_an_empty_one(tmp_path: Path) -> None:
    assert ask_all(tmp_path) == Running()
    (tmp_path / "storage" / "rns_ble").mkdir(parents=True)
    (tmp_path / "storage" / "rns_ble" / "README").touch()
    assert ask_all(tmp_path) == Running()


def test_several_interfaces_are_asked_in_the_order_of_their_names(tmp_path: Path) -> None:
    with interface(tmp_path, "B", as_json(OFFLINE)), interface(tmp_path, "A", as_json(ONLINE)):
        found = ask_all(tmp_path)
    assert [one["name"] for one in found.interfaces] == ["BLE Interface", "B"]
    assert found.interfaces[0]["mesh"] == json.loads(json.dumps(asdict(MESH)))
    assert not found.ok, "one of them is offline"


def test_a_long_directory_is_no_hindrance(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 50)
    with interface(directory, "A", as_json(ONLINE)):
        assert ask_all(directory).ok


def test_the_socket_of_a_process_that_was_killed_is_nobodys(tmp_path: Path) -> None:
    with interface(tmp_path, "A"):
        pass
    assert (tmp_path / "storage" / "rns_ble" / "A.sock").is_socket()
    assert ask_all(tmp_path) == Running()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "it closed the connection"),
        (b"rubbish\n", "Expecting value"),
        (b"[]\n", "[]"),
        (b'{"error": "there are 16 clients already"}\n', "there are 16 clients already"),
    ],
)
def test_an_answer_that_is_none_is_an_error_with_the_process(
    tmp_path: Path, answer: bytes, said: str
) -> None:
    with interface(tmp_path, "A", answer):
        [error] = ask_all(tmp_path).errors
    assert error.startswith(f"A: process {os.getpid()} gives no answer: {said}")


def test_who_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with interface(tmp_path, "A", None), interface(tmp_path, "B", as_json(ONLINE)):
        found = ask_all(tmp_path, timeout=0.05)
    assert found.errors[0].startswith(f"A: process {os.getpid()} does not answer")
    assert len(found.interfaces) == 1


def test_who_answers_drop_by_drop_is_not_waited_for_either(tmp_path: Path) -> None:
    """The time is that of the whole answer, and not of each part."""
    with drops(tmp_path, b"{", pause=0.02):
        [error] = ask_all(tmp_path, timeout=0.2).errors
    assert "does not answer" in error


def test_an_answer_without_end_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ANSWER_MAXIMUM", 1000)
    with drops(tmp_path, b"{" * 600, pause=0):
        [error] = ask_all(tmp_path, timeout=20).errors
    assert error == f"A: process {os.getpid()} gives no answer: it says more than 1000 bytes"


def test_what_belongs_to_another_user_is_said_with_the_command_that_works(tmp_path: Path) -> None:
    assert as_user(0, "status") == "sudo rns-ble status"
    command = "rns-ble status" if os.getuid() == 0 else f"-u {ME} rns-ble status"
    assert not_yours(tmp_path / "not" / "there", tmp_path) == (
        f"{tmp_path} is used by {ME}'s rnsd: sudo {command} --config {tmp_path}"
    )


@pytest.mark.parametrize(
    ("started", "typed"),
    [
        ("/usr/local/bin/rns-ble", "rns-ble"),
        ("/home/me/.local/bin/rns-ble", "/home/me/.local/bin/rns-ble"),
        ("/venv/rns_ble/cli/__main__.py", "rns-ble"),
    ],
)
def test_sudo_is_told_where_the_program_is(monkeypatch, started: str, typed: str) -> None:
    monkeypatch.setattr("sys.argv", [started, "status"])
    assert as_user(0, "status") == f"sudo {typed} status"


@pytest.mark.parametrize("where", ["the directory", "the socket"])
def test_a_socket_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    with interface(tmp_path, "A"):
        # For root, whom the tests may run as, there is none.
        if where == "the directory":
            monkeypatch.setattr(os, "listdir", refuse)
        else:
            monkeypatch.setattr(running.socket.socket, "connect", refuse)
        found = ask_all(tmp_path)
    assert found.interfaces == []
    [error] = found.errors
    assert f"{tmp_path} is used by {ME}'s rnsd: sudo " in error


# --- nobody answers: why ---

CONFIG = "[reticulum]\nshare_instance = yes\ninstance_name = {name}\n[interfaces]\n"
SECTION = "[[BLE Interface]]\ntype = BLEInterface\nenabled = {enabled}\n"


@pytest.fixture
def named(tmp_path: Path) -> Callable[..., str]:
    """Writes a configuration; the name of its shared instance."""

    def write(*, enabled: str = "yes") -> str:
        name = f"rns-ble-test-{os.getpid()}"
        (tmp_path / "config").write_text(CONFIG.format(name=name) + SECTION.format(enabled=enabled))
        return name

    return write


def failed(capsys: pytest.CaptureFixture[str], directory: Path, command: str = "status") -> str:
    code, out, errors = run(capsys, command, "--config", str(directory))
    assert (code, out) == (1, "")
    assert errors.count("\n") == 1
    return errors.removeprefix(f"rns-ble {command}: ").rstrip("\n")


@pytest.mark.parametrize("command", ["status", "monitor"])
def test_without_a_configuration(tmp_path: Path, capsys, command: str) -> None:
    config = tmp_path / "config"
    assert failed(capsys, tmp_path, command) == (
        f"there is no {config}: rns-ble install --enable, or name another directory with --config"
    )


def test_with_a_configuration_that_is_no_file(tmp_path: Path, capsys) -> None:
    (tmp_path / "config").mkdir()
    assert failed(capsys, tmp_path) == f"{tmp_path / 'config'} can't be read: Is a directory"


def test_with_a_configuration_that_reticulum_can_not_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "config").write_text("[reticulum\n")
    assert "Reticulum can't read this configuration" in failed(capsys, tmp_path)


def test_without_an_interface_in_it(tmp_path: Path, capsys, named) -> None:
    named(enabled="no")
    assert failed(capsys, tmp_path) == (
        f"{tmp_path / 'config'} has no BLE interface that is enabled: rns-ble install --enable"
    )


def test_when_no_reticulum_runs(tmp_path: Path, capsys, named) -> None:
    named()
    assert failed(capsys, tmp_path).startswith(f"no Reticulum runs with {tmp_path}: start rnsd")


@contextmanager
def shared_instance(name: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0rns/{name}")
        listening.listen()
        yield


THIS: re.Pattern[str] = re.compile(rf"\S+ \(process {os.getpid()}\) ")


def test_when_the_reticulum_that_runs_has_no_ble_interface(tmp_path: Path, capsys, named) -> None:
    with shared_instance(named(enabled="no")):
        said = failed(capsys, tmp_path)
    assert THIS.match(said)
    assert "has no BLE interface that is enabled: rns-ble install --enable, then restart " in said


def test_when_another_program_has_the_shared_instance(tmp_path: Path, capsys, named) -> None:
    with shared_instance(named()):
        said = failed(capsys, tmp_path)
    assert re.fullmatch(
        rf"{THIS.pattern}runs without a BLE interface of {tmp_path}: it was started before that was "
        "configured, the interface failed, or it uses another configuration; rns-ble doctor tells which",
        said,
    )


def test_when_the_shared_instance_is_one_by_tcp(tmp_path: Path, capsys, named) -> None:
    """A Unix socket of its name has nothing to do with it."""
    with socket.create_server(("127.0.0.1", 0)) as listening, shared_instance(named()):
        port = listening.getsockname()[1]
        options = f"[reticulum]\nshared_instance_type = TCP\nshared_instance_port = {port}\n[interfaces]\n"
        (tmp_path / "config").write_text(options + SECTION.format(enabled="yes"))
        assert THIS.match(failed(capsys, tmp_path))
        listening.close()
        assert failed(capsys, tmp_path).startswith("no Reticulum runs")


def test_when_another_users_program_has_the_shared_instance(
    tmp_path: Path, capsys, named, monkeypatch
) -> None:
    other = os.getuid() + 1
    with shared_instance(named()):
        monkeypatch.setattr(os, "getuid", lambda: other)
        said = failed(capsys, tmp_path)
    assert re.match(rf"{THIS.pattern}of {ME}'s has opened Reticulum's interfaces; ask as that user: ", said)
    assert re.search(rf"sudo (-u {ME} )?rns-ble status$", said)


# --- status ---


def test_json_is_one_object_with_errors_in_it(tmp_path: Path, capsys) -> None:
    with interface(tmp_path, "A", as_json(ONLINE)):
        code, out, errors = run(capsys, "status", "--json", "--config", str(tmp_path))
    assert (code, errors) == (0, "")
    assert json.loads(out) == {"interfaces": [told(ONLINE)], "errors": []}
    code, out, errors = run(capsys, "status", "--json", "--config", str(tmp_path))
    assert (code, errors) == (1, "")
    assert json.loads(out)["interfaces"] == []
    assert "there is no" in json.loads(out)["errors"][0]


def test_an_interface_that_is_offline_is_exit_code_1(tmp_path: Path, capsys) -> None:
    with interface(tmp_path, "B", as_json(OFFLINE)):
        code, out, _ = run(capsys, "status", "--config", str(tmp_path))
    assert code == 1
    assert out.splitlines()[0] == "B: OFFLINE: the adapter is off: rfkill"


def test_wait_returns_when_all_are_online(tmp_path: Path, capsys) -> None:
    with interface(tmp_path, "A", as_json(OFFLINE), as_json(OFFLINE), as_json(ONLINE)):
        code, out, _ = run(capsys, "status", "--json", "--wait", "60", "--config", str(tmp_path))
    assert code == 0
    assert json.loads(out)["interfaces"][0]["online"] is True


def test_wait_gives_up(tmp_path: Path, capsys) -> None:
    assert run(capsys, "status", "--wait", "0.1", "--config", str(tmp_path))[0] == 1


def test_an_interface_that_ends_while_its_rates_are_measured_is_shown_as_it_was(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [Running([told(ONLINE)]), Running()]
    monkeypatch.setattr(status, "ask_all", lambda _directory: answers.pop(0))
    code, out, errors = run(capsys, "status", "--config", str(tmp_path))
    assert (code, errors) == (0, "")
    assert out.startswith("BLE Interface: online\n")
    assert answers == []


def test_what_went_wrong_either_time_is_told_once(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [Running([told(ONLINE)], ["A is busy"]), Running([], ["A is busy", "B does not answer"])]
    monkeypatch.setattr(status, "ask_all", lambda _directory: answers.pop(0))
    code, out, errors = run(capsys, "status", "--config", str(tmp_path))
    assert code == 1
    assert out.startswith("BLE Interface: online\n")
    assert errors == "rns-ble status: A is busy; B does not answer\n"


# --- scan without an interface ---


@pytest.mark.parametrize(
    ("enabled", "options", "driver", "transport"),
    [
        ("yes", {}, "bumble", "usb:1"),
        ("no", {}, "bleak", None),
        ("yes", {"adapter": "hci1"}, "bleak", None),
        ("yes", {"driver": "bumble", "transport": "usb:0"}, "bumble", "usb:0"),
    ],
)
def test_scan_opens_what_the_configuration_or_an_option_names(
    tmp_path: Path, named, enabled: str, options: dict[str, str], driver: str, transport: str | None
) -> None:
    named(enabled=enabled)
    with (tmp_path / "config").open("a") as config:
        config.write("driver = bumble\ntransport = usb:1\nmin_rssi = -70\n")
    found = scan._config(tmp_path, options)
    assert (found.driver, found.transport, found.adapter) == (driver, transport, options.get("adapter"))
    assert (found.min_rssi == -70) == (enabled == "yes" and not options)


def test_scan_without_a_configuration_takes_the_systems_adapter(tmp_path: Path) -> None:
    assert scan._config(tmp_path, {}).driver == "bleak"


@pytest.mark.parametrize(
    ("section", "said"),
    [("max_connections = 0", "max_connections = 0; allowed: "), ("[[[", "Reticulum can't read this")],
)
def test_scan_with_a_section_that_can_not_be_used_is_one_line(
    tmp_path: Path, capsys, named, section: str, said: str
) -> None:
    named()
    with (tmp_path / "config").open("a") as config:
        config.write(section + "\n")
    code, out, errors = run(capsys, "scan", "--config", str(tmp_path))
    assert (code > 0, out, errors.count("\n")) == (True, "", 1)
    assert said in errors


def test_scan_says_why_an_interface_that_runs_hears_nobody(tmp_path: Path, capsys) -> None:
    with interface(tmp_path, "B", as_json(OFFLINE), as_json(OFFLINE)):
        code, out, errors = run(capsys, "scan", "--config", str(tmp_path))
    assert (code, out) == (1, "")
    assert errors == "rns-ble scan: B is offline: the adapter is off: rfkill\n"


def test_scan_with_two_interfaces_says_which_of_them_hears(tmp_path: Path, capsys) -> None:
    one, two = as_json(ONLINE), as_json(replace(ONLINE, name="B"))
    with interface(tmp_path, "A", one, one), interface(tmp_path, "B", two, two):
        code, out, _ = run(capsys, "scan", "--config", str(tmp_path))
    assert code == 0
    assert [line.count("BLE Interface") for line in out.splitlines()] == [0, 1, 1, 0, 0]
    assert out.splitlines()[0].split()[-3:] == ["heard", "by", "state"]


# --- what is shown ---


def lines(*statuses: InterfaceStatus, width: int | None = None) -> list[str]:
    return [line.text for line in overview(Running(list(map(told, statuses))), Rates(), width)]


def test_an_interface_its_peers_and_who_is_not_linked() -> None:
    assert lines(ONLINE) == [
        "BLE Interface: online",
        "  driver bleak on hci1, address 02:00:00:00:00:01, process 4711, up 1 h 1 min",
        f"  identity {MESH.identity}, 1 of 7 links, scanning, not advertising now",
        "  dialling 02:00:00:00:00:04",
        "  connected, and have not said who they are: 2",
        "  packets that Reticulum was too slow to take: 5",
        "peer                              role     address            dBm  MTU  path       up  heard      rx"
        "      tx  rx/s  tx/s  queue  dropped  incomplete  foreign  missed",
        f"{PEER.identity}  central  02:00:00:00:00:02  -50  517  socket  1 min    0 s  2.0 kB  4.0 kB"
        "     -     -      3        1           2        0       0",
        "not linked         dBm     seen  flags  failed  identity  name      state",
        "02:00:00:00:00:03  -70  1 s ago  -      3 of 3  -         shed?[2J"
        "  failed too often (for 42 s); last time: it lacks RX, TX",
    ]


def test_two_interfaces_one_of_them_offline() -> None:
    shown = overview(Running([told(ONLINE), told(OFFLINE)]), Rates())
    assert [line.style for line in shown if line.style in (Style.GOOD, Style.BAD)] == [Style.GOOD, Style.BAD]


def test_a_peer_with_two_links_has_a_line_for_each() -> None:
    peer = replace(PEER, links=(LINK, replace(LINK, address="02:00:00:00:00:05", role="peripheral")))
    shown = lines(replace(ONLINE, mesh=replace(MESH, peers=(peer,))))
    [second] = [line for line in shown if "02:00:00:00:00:05" in line]
    assert second.split()[:5] == ["peripheral", "02:00:00:00:00:05", "-50", "517", "socket"]


def test_an_interface_of_another_version_is_to_be_restarted() -> None:
    shown = lines(replace(ONLINE, version="0.0.1"))
    assert (
        f"  it runs rns_ble 0.0.1, and this is {rns_ble.__version__}: restart it to bring it up to date"
        in shown
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_columns_are_left_out_until_the_table_fits(width: int) -> None:
    shown = lines(ONLINE, width=width)
    if width >= 40:
        assert all(len(line) <= width for line in shown if not line.startswith("0")), shown
    heading = next(line for line in shown if line.startswith("peer"))
    assert "rx/s" in heading or width < 40


def test_everything_can_be_shown_however_narrow() -> None:
    for width in range(200):
        assert lines(ONLINE, OFFLINE, width=width)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "failed too often (for 42 s)"),
        (
            {"verdict": "not_seen", "verdict_ends": None},
            "not seen lately; failed too often before (for 42 s)",
        ),
        (
            {"verdict": "too_weak", "verdict_ends": None, "left_alone": 0},
            "signal below min_rssi",
        ),
        (
            {"verdict": "in_flight", "verdict_ends": None, "left_alone": 0, "tried": 3.2},
            "an attempt is in flight (since 3 s)",
        ),
    ],
)
def test_why(change: dict[str, Any], said: str) -> None:
    candidate = {**asdict(LEFT_ALONE), **change}
    candidate["verdict_text"] = Verdict[candidate["verdict"].upper()].value
    assert why({**candidate, "last_failure": None}) == said
    assert why(candidate) == f"{said}; last time: it lacks RX, TX"


def test_of_who_is_linked_an_earlier_failure_is_no_news() -> None:
    assert why(asdict(replace(LEFT_ALONE, verdict="linked", verdict_text="linked", verdict_ends=None))) == (
        "linked; failed too often before (for 42 s)"
    )


def test_a_reason_that_is_long_goes_on_below_and_costs_no_column() -> None:
    failure = (
        "another program on hci0 has subscribed: end that one, or give the interface an adapter of its own"
    )
    mesh = replace(MESH, candidates=(replace(LEFT_ALONE, last_failure=failure),))
    shown = lines(replace(ONLINE, mesh=mesh), width=110)
    [first] = [number for number, line in enumerate(shown) if line.startswith(LEFT_ALONE.address)]
    assert "shed?[2J" in shown[first]
    assert [line[:17].strip() for line in shown[first:]] == [LEFT_ALONE.address, "", ""]
    assert all(len(line) <= 110 for line in shown)
    state = shown[first - 1].index("state")
    assert " ".join(line[state:] for line in shown[first:]) == (
        f"failed too often (for 42 s); last time: {failure}"
    )


def test_the_verdicts_that_are_looked_for_are_those_that_there_are() -> None:
    """The view does without the mesh's modules, which take long to import."""
    assert (Verdict.LINKED.name.lower(), Verdict.IN_FLIGHT.name.lower()) == (LINKED, IN_FLIGHT)


def test_rates_come_of_two_snapshots_and_not_of_two_lives_of_a_peer() -> None:
    def shown(age: float, rx: int, tx: int) -> tuple[float | None, float | None]:
        peer = replace(PEER, age=age, rx_bytes=rx, tx_bytes=tx)
        status = told(replace(ONLINE, mesh=replace(MESH, peers=(peer,))))
        rates.update([status])
        return rates.of(status, status["mesh"]["peers"][0])

    rates = Rates()
    assert shown(10, 1000, 0) == (None, None)
    assert shown(12, 2000, 500) == (500, 250)
    assert shown(12, 2000, 500) == (500, 250), "the same snapshot once more"
    assert shown(14, 2000, 500) == (0, 0)
    assert shown(1, 10, 10) == (None, None), "it has been away"
    assert shown(2, 20, 10) == (10, 0)


def test_the_trend_is_that_of_sightings_and_not_of_snapshots() -> None:
    trends = Trends()

    def seen(now: float, rssi: int, heard: float) -> str:
        candidate = {"address": "A", "rssi": rssi, "seen": now - heard}
        trends.update([candidate, {**candidate, "interface": "another", "rssi": -40}], now)
        return trends.of(candidate)

    assert seen(0, -70, heard=0) == "="
    assert seen(1, -60, heard=1) == "+10"
    for now in range(2, 9):
        assert seen(now, -60, heard=1) == "+10", "not heard since"
    assert seen(9, -60, heard=9) == "+8"
    assert seen(10, -80, heard=10) == "-14"
    for now in range(11, 60):
        last = seen(now, -80, heard=now)
    assert last == "="


def test_a_table_is_aligned() -> None:
    columns = [Column[str]("left", str), Column[str]("right", lambda row: row * 2, right=True)]
    assert table(columns, ["a", "bcd"], None) == [
        "left   right",
        "a         aa",
        "bcd   bcdbcd",
    ]


def test_a_table_that_is_too_wide_is_first_cut_and_then_loses_columns() -> None:
    columns = [
        Column[str]("one", lambda row: row * 10, shortest=4),
        Column[str]("two", str, spare=2),
        Column[str]("three", str, spare=1),
        Column[str]("four", str, spare=2),
    ]
    assert table(columns, ["x"], 24) == ["one     two  three  four", "xxxxxx  x    x      x"]
    assert table(columns, ["x"], 12) == ["one   three", "xxxx  x"]
    assert table(columns, ["x"], 0) == ["one", "xxxx"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (3e12, "3000.0 GB")],
)
def test_sizes(count: float | None, text: str) -> None:
    assert size(count) == text


EVIL = "a\x1b[2J\nb\u202e"


def test_what_comes_from_elsewhere_does_not_steer_the_terminal() -> None:
    assert plain(EVIL) == "a?[2J?b?"
    assert table([Column[str]("left", str)], [EVIL], None) == ["left", plain(EVIL)]
    assert Line(EVIL).text == plain(EVIL)


def with_evil(part: Any) -> Any:
    """The same object with more than text in each of its texts."""
    if isinstance(part, dict):
        return {key: with_evil(part[key]) for key in part}
    if isinstance(part, list):
        return [with_evil(item) for item in part]
    return part + EVIL if isinstance(part, str) else part


@pytest.mark.parametrize("command", ["status", "scan"])
def test_nothing_that_an_interface_tells_steers_the_terminal(tmp_path: Path, capsys, command: str) -> None:
    """Root may look at the interface of any user, who answers what he likes."""
    online, offline = (json.dumps(with_evil(told(one))).encode() + b"\n" for one in (ONLINE, OFFLINE))
    with interface(tmp_path, "A", online, online), interface(tmp_path, "B", offline, offline):
        _, out, errors = run(capsys, command, "--config", str(tmp_path))
    assert plain(EVIL) in out
    assert all(letter.isprintable() or letter == "\n" for letter in out + errors)
    assert "\nb" not in out + errors


def test_nothing_that_a_socket_answers_instead_steers_the_terminal(tmp_path: Path, capsys) -> None:
    with interface(tmp_path, "A", b'{"error": "rubbish\\u001b[2J"}\n'):
        _, _, errors = run(capsys, "status", "--config", str(tmp_path))
    assert errors.count("\n") == 1
    assert errors.rstrip("\n").isprintable()
