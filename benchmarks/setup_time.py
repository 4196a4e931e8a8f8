"""What a user waits for, and what an idle interface costs.

`radio`, `bluez`
    From the moment in which the central's scan first reports the peer until the link is ready for data on
    both sides: cold (BlueZ knows nothing of the peer, nor of its services), and again after it was closed.
    `radio` has two drivers on the virtual radio in this process; `bluez` two processes with an adapter each,
    of the laboratory's guest. ble-reticulum's driver reports whom a scan has found when that scan is over,
    and only from there its time counts. Before it looks for services it waits 1.5 s, unless its configuration
    says otherwise (`service_discovery_delay`); it is measured with that wait, and without.
`start`
    From the start of rnsd to the interface's being online, as its status says, with a configuration directory
    that is new; beside it an rnsd without interface, which counts as up when it says so itself. And the
    memory that is resident in either then.
`imports`
    What importing costs, and how much memory is resident afterwards: RNS alone, the file that Reticulum loads
    with it, and a driver.
`idle`
    The share of a core that an rnsd takes whose peers are all linked while nobody sends, and its resident
    memory; beside it an rnsd without interface. One place of each is free, so that all go on scanning and
    advertising. Each round is a span of time of the same network, and its figure the median of the nodes.

`bluez` runs in the laboratory's guest only: `--guest 5.66` boots one and runs this program in it, for the
parts that BlueZ has to do with. Rounds are interleaved: each has everything that is compared.

    python benchmarks/setup_time.py [--json] [--rounds N] [--part PART]... [--guest VERSION]...
                                    [--idle-seconds S] [--reference PATH --reference-python PROGRAM]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from bluez_devices import forget_devices
from link_reference import PYTHON
from measuring import Figure, arguments_of, check_reference_python, readable_output, setting, table

from rns_ble.cli.demo.network import Process, ProcessFailedError, write_configuration
from rns_ble.cli.install import SHIM
from rns_ble.cli.running import Interface, ask_all
from rns_ble.drivers.asyncio_loop import open_asyncio_loop
from rns_ble.drivers.hci import BumbleDriver, VirtualRadio
from rns_ble.protocol.gatt import IDENTITY_UUID, RX_UUID, SERVICE_UUID, TX_UUID

HERE: Final = Path(__file__).resolve().parent
BOOT: Final = HERE.parent / "tests" / "bluez" / "lab" / "boot"
IN_GUEST: Final = os.environ.get("RNS_BLE_BTLAB") == "1"
PARTS: Final = ("radio", "bluez", "start", "imports", "idle")
GUEST_PARTS: Final = ("bluez", "start", "idle")
"""Those that BlueZ has to do with."""

LINK_TIMEOUT: Final = 60.0
"""Seconds for a link, with all tries; it takes one or two."""

READY_TIMEOUT: Final = 60.0
"""Seconds for a process to be up. In the guest it has to compile what it imports in the first round."""

ONLINE_TIMEOUT: Final = 120.0
"""Seconds for an rnsd to be up; several start at once in the guest, on one processor."""

LINKED_TIMEOUT: Final = 120.0
"""Seconds until everybody has linked everybody: some 15. The mesh dials one after the other, and looks around
for 2 s of every 5."""

SETTLED: Final = 10.0
"""Seconds from the last link to the measurement: what comes with a link is over."""

GUEST_TIMEOUT: Final = 1200.0
"""Seconds for a part in a guest, unless it hangs."""

IDLE_MAXIMUM: Final = 900.0
"""Seconds of idling that fit in a part's time in a guest."""

GOODBYE_TIMEOUT: Final = 8.0
"""Seconds from SIGTERM to SIGKILL: an interface may take 5 s to close its links."""

LOOK: Final = 0.02
"""Seconds between two looks at a process that starts; the error is half of it."""

NEIGHBOURS: Final = {"bumble": 8, "bleak": 4}
"""Nodes of the idle network, all linked to one another, by driver: seven peers are as many as an interface
has by default, and three what the guest's one processor bears."""

DEFAULT_PLACES: Final = 7
"""`max_connections`, where nobody is met."""

TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK")
"""Seconds; what /proc/PID/stat counts in."""


def seconds_to_wait(text: str) -> float:
    """For `argparse`: a time that ends."""
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < seconds <= IDLE_MAXIMUM:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to {IDLE_MAXIMUM:g}")
    return seconds


def say(what: str) -> None:
    """Progress."""
    print(f"setup_time: {what}", file=sys.stderr, flush=True)


# --- links --------------------------------------------------------------------------------------------------


@dataclass
class Links:
    """The times of one kind of driver, and why some are missing."""

    cold: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Milliseconds."""
        result: dict[str, Any] = {
            name: Figure(tuple(times)).scaled(1000).as_json()
            for name, times in (("cold", self.cold), ("reconnect", self.again))
            if times
        }
        return {**result, "links": len(self.cold) + len(self.again), "failures": self.failures}


async def on_radio(rounds: int) -> Links:
    """Two drivers in this process, made anew in each round."""
    links = Links()
    for _ in range(rounds):
        radio = VirtualRadio()
        async with open_asyncio_loop(), BumbleDriver(radio) as central, BumbleDriver(radio) as peripheral:
            for driver, identity in ((central, bytes(range(16))), (peripheral, bytes(range(16, 32)))):
                driver.set_identity(identity)
                await driver.start(SERVICE_UUID, RX_UUID, TX_UUID, IDENTITY_UUID)
            await peripheral.start_advertising()
            await central.start_scanning()
            for times in links.cold, links.again:
                with trio.fail_after(LINK_TIMEOUT):
                    times.append(await _link_on_radio(central, peripheral))
    return links


async def _link_on_radio(central: BumbleDriver, peripheral: BumbleDriver) -> float:
    """A link, which is closed again; seconds from the sighting to the end that was ready last."""
    shaken = 0.0
    known = trio.Event()

    async def accept() -> None:
        nonlocal shaken
        theirs = await peripheral.accepted.receive()
        await theirs.receive()  # the central's identity
        shaken = time.perf_counter()
        known.set()
        async for _ in theirs:
            pass
        await theirs.aclose()

    while True:  # what was heard before does not count
        try:
            central.discovered.receive_nowait()
        except trio.WouldBlock:
            break
    device = await central.discovered.receive()
    sighted = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        ours = await central.connect(device.address)
        linked = time.perf_counter()
        await known.wait()
        await ours.aclose()
    return max(linked, shaken) - sighted


async def on_bluez(rounds: int, sides: Mapping[str, Sequence[str]], directory: Path) -> dict[str, Links]:
    """Each kind of driver in turn. `sides`: the command of one end, which gets its role and adapter."""
    links = {name: Links() for name in sides}
    for number in range(1, rounds + 1):
        for name, command in sides.items():
            say(f"bluez, round {number} of {rounds}, {name}")
            for stays in await forget_devices():
                say(stays)
            try:
                await _round_on_bluez(links[name], command, directory)
            except* (ProcessFailedError, trio.TooSlowError) as group:
                why = str(_first(group))
                links[name].failures.append(why)
                say(why)
    return links


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _round_on_bluez(links: Links, command: Sequence[str], directory: Path) -> None:
    changes = trio.lowlevel.ParkingLot()
    async with trio.open_nursery() as nursery:
        ends = [
            Process(role, [*command[:2], role, adapter, *command[2:]], [directory / f"{role}.log"], changes)
            for role, adapter in (("peripheral", "hci0"), ("central", "hci1"))
        ]
        peripheral, central = ends
        for end in ends:
            await nursery.start(end.run)
            await _told(end, "ready", READY_TIMEOUT)
        for times in links.cold, links.again:
            since = {end: len(end.events) for end in ends}
            await central.tell("dial")
            linked = await _told(central, "linked", LINK_TIMEOUT, since[central])
            shaken = await _told(peripheral, "shaken", LINK_TIMEOUT, since[peripheral])
            times.append(max(linked["at"], shaken["at"]) - linked["sighted"])
            tries = sum(event["event"] == "failed" for event in central.events[since[central] :])
            if tries:
                links.failures.append(f"linked after {tries} tries that failed")
            await central.tell("close")
            await _told(central, "closed", LINK_TIMEOUT, since[central])
            await _told(peripheral, "ended", LINK_TIMEOUT, since[peripheral])
        nursery.cancel_scope.cancel()


async def _told(process: Process, event: str, within: float, since: int = 0) -> dict[str, Any]:
    """Raises `ProcessFailedError` when it is not told in time."""
    with trio.move_on_after(within):
        return await process.wait_for(event, since)
    failed = [str(told.get("why")) for told in process.events[since:] if told["event"] == "failed"]
    why = f"; it said: {'; '.join(failed)}" if failed else ""
    raise process.failure(f"has not told {event!r} within {within:g} s{why}")


# --- rnsd ---------------------------------------------------------------------------------------------------


class Daemon:
    """An rnsd on a configuration directory of its own."""

    def __init__(self, directory: Path, keys: Mapping[str, str] | None) -> None:
        """`keys`: of its one interface; None: it has none."""
        directory.mkdir()
        write_configuration(directory, [] if keys is None else [keys], {})
        self.directory = directory
        self._output = directory / "output"
        self._process: trio.Process
        self._began = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled; then it is ended. Raises `RuntimeError` when it ends by itself."""
        self._began = time.monotonic()
        with self._output.open("wb") as output:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "RNS.Utilities.rnsd", "--config", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            task_status.started()
            code = await self._process.wait()
            raise RuntimeError(f"rnsd ended with exit code {code}:\n{self._output.read_text()}")
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _end(self) -> None:
        self._process.terminate()
        with trio.move_on_after(GOODBYE_TIMEOUT):
            await self._process.wait()
        self._process.kill()
        await self._process.wait()

    @property
    def interfaces(self) -> list[Interface]:
        """What its interfaces show now."""
        return ask_all(self.directory).interfaces

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def resident(self) -> float:
        """MiB that are resident now (proc(5): VmRSS)."""
        lines = Path("/proc", str(self._process.pid), "status").read_text().splitlines()
        (kib,) = [line.split()[1] for line in lines if line.startswith("VmRSS")]
        return int(kib) / 1024

    async def up(self) -> float:
        """Seconds from its start until it says that it has started."""
        return await self._until(lambda: b"Started rnsd" in self._output.read_bytes(), ONLINE_TIMEOUT)

    async def online(self) -> float:
        """Seconds from its start until its interface is online."""
        return await self._until(lambda: any(one["online"] for one in self.interfaces), ONLINE_TIMEOUT)

    @property
    def peers(self) -> int:
        """How many peers it has now."""
        return sum(len((one["mesh"] or {}).get("peers", ())) for one in self.interfaces)

    async def linked(self, peers: int) -> float:
        """Seconds from its start until it has so many peers."""
        return await self._until(lambda: self.peers >= peers, LINKED_TIMEOUT)

    async def _until(self, condition: Callable[[], bool], within: float) -> float:
        with trio.move_on_after(within):
            while not condition():  # noqa: ASYNC110 - a process of somebody else's, which tells nobody
                await trio.sleep(LOOK)
            return time.monotonic() - self._began
        raise RuntimeError(f"rnsd is not so far within {within:g} s:\n{self._output.read_text()}")


def computed(pid: int) -> float:
    """Seconds that a process has computed so far (proc(5): utime and stime)."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


@asynccontextmanager
async def ether(directory: Path) -> AsyncIterator[tuple[str, int]]:
    """A virtual radio in a process of its own: the transport that reaches it, and its pid."""
    command = [sys.executable, "-c", ETHER]
    process = Process("the ether", command, [directory / "ether.log"], trio.lowlevel.ParkingLot())
    async with trio.open_nursery() as nursery:
        await nursery.start(process.run)
        listening = await _told(process, "listening", READY_TIMEOUT)
        pid = await process.wait_for("pid")
        yield listening["transport"], pid["pid"]
        nursery.cancel_scope.cancel()


ETHER: Final = """
import json, os, sys
print(json.dumps({"event": "pid", "pid": os.getpid()}), flush=True)
from rns_ble.cli import main
sys.argv[1:] = ["ether", "--listen", "127.0.0.1:0", "--json", "--until-stdin-ends"]
main()
"""
"""`rns-ble ether`, which says which process it is."""


def keys_of(driver: str, transport: str, places: int) -> dict[str, str]:
    """The section of an interface."""
    where = {"transport": transport} if driver == "bumble" else {"adapter": "hci0"}
    return {"driver": driver, **where, "max_connections": str(places)}


async def starts(driver: str, rounds: int, directory: Path) -> dict[str, Figure]:
    """Seconds to the start of an rnsd without interface, and with one, and MiB that are resident then; in
    each round, one after the other.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)

    async def note(daemon: Daemon, name: str, number: int) -> None:
        seconds = await (daemon.online() if name.endswith("online") else daemon.up())
        if number:
            times[name].append(seconds)

    async with ether(directory) as (transport, _pid):
        for number in range(rounds + 1):  # the first one compiles, and does not count
            say(f"start, {driver}, round {number} of {rounds}")
            for name, keys in (("plain", None), ("interface", keys_of(driver, transport, DEFAULT_PLACES))):
                async with trio.open_nursery() as nursery:
                    daemon = Daemon(directory / f"start-{driver}-{number}-{name}", keys)
                    await nursery.start(daemon.run)
                    async with trio.open_nursery() as watchers:
                        for what in ("up",) if keys is None else ("up", "online"):
                            watchers.start_soon(note, daemon, f"{name}, {what}", number)
                    if number:
                        times[f"{name}, resident, MiB"].append(daemon.resident)
                    nursery.cancel_scope.cancel()
    figures = {name: Figure(tuple(values)) for name, values in times.items()}
    plain = figures["plain, up"].rounds
    online = figures["interface, online"].rounds
    ours = tuple(one - two for one, two in zip(online, plain, strict=True))
    return {**figures, "online, more than plain": Figure(ours)}


async def idle(driver: str, seconds: float, rounds: int, directory: Path) -> dict[str, Any]:
    """Percent of a core, of nodes that are linked with one another: of all, or with BlueZ of the one that has
    its adapter. Its peers have controllers without BlueZ then, since bluetoothd tells everybody what any of
    its adapters hears.
    """
    count = NEIGHBOURS[driver]
    async with ether(directory) as (air, ether_pid), trio.open_nursery() as nursery:
        transport = os.environ["RNS_BLE_LAB_HCI"] if driver == "bleak" else air
        plain = Daemon(directory / f"idle-{driver}-plain", None)
        nodes = [
            Daemon(
                directory / f"idle-{driver}-{number}",
                keys_of("bumble" if number else driver, transport, count),
            )
            for number in range(count)
        ]
        say(f"idle, {driver}: {count} nodes start")
        for daemon in (plain, *nodes):
            await nursery.start(daemon.run)
            await daemon.up()
        for node in nodes:
            await node.linked(count - 1)
        say(f"idle, {driver}: all have {count - 1} peers; {SETTLED + rounds * seconds:g} s to go")
        await trio.sleep(SETTLED)
        daemons = [plain, *(nodes if driver == "bumble" else nodes[:1])]
        others = {"ether": ether_pid} if driver == "bumble" else {"bluetoothd": _bluetoothd()}
        pids = [daemon.pid for daemon in daemons] + list(others.values())
        shares = [await _shares(pids, seconds) for _ in range(rounds)]
        still = [daemon.peers for daemon in daemons[1:]]
        resident = [daemon.resident for daemon in daemons]
        nursery.cancel_scope.cancel()
    return {
        "peers": count - 1,
        "peers_at_the_end": still,
        "seconds": seconds,
        "rnsd": Figure(tuple(statistics.median(one[1 : len(daemons)]) for one in shares)).as_json(),
        "rnsd_without_interface": Figure(tuple(one[0] for one in shares)).as_json(),
        "resident_mib": Figure(tuple(resident[1:])).as_json(),
        "resident_mib_without_interface": round(resident[0], 3),
        **{
            name: Figure(tuple(one[place] for one in shares)).as_json()
            for place, name in enumerate(others, len(daemons))
        },
    }


async def _shares(pids: Sequence[int], seconds: float) -> list[float]:
    """Percent of a core that each process takes for so long."""
    before = [computed(pid) for pid in pids]
    began = time.monotonic()
    await trio.sleep(seconds)
    lasted = time.monotonic() - began
    return [100 * (computed(pid) - then) / lasted for pid, then in zip(pids, before, strict=True)]


def _bluetoothd() -> int:
    return int(os.environ["BLUETOOTHD_PID"])


# --- imports ------------------------------------------------------------------------------------------------

IMPORT: Final = """
import json, sys, time
began, worked = time.perf_counter(), time.process_time()
import RNS
between = time.perf_counter()
{more}
ended, done = time.perf_counter(), time.process_time()
(resident,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")]
print(json.dumps([ended - began, ended - between, done - worked, int(resident) / 1024]))
"""

LOAD: Final = f"exec(compile({SHIM!r}, 'BLEInterface.py', 'exec'), {{'RNS': RNS}})\n"
"""As Reticulum does."""

MAKE: Final = (
    "from rns_ble.interface import make_driver\nfrom rns_ble.config import BLEConfig\nmake_driver(BLEConfig("
)

IMPORTED: Final = {
    "RNS": "",
    "RNS, the interface": LOAD,
    "RNS, the interface, driver bleak": f"{LOAD}{MAKE}))",
    "RNS, the interface, driver bumble": f"{LOAD}{MAKE}driver='bumble', transport='tcp-client:127.0.0.1:1'))",
}
"""What is imported → what is done after `import RNS`."""


def imports(rounds: int) -> dict[str, dict[str, Figure]]:
    """Of each: seconds in all, seconds after RNS, seconds computed, and MiB that are resident."""
    names = ("total", "after_rns", "cpu", "resident")
    values: dict[str, list[list[float]]] = {what: [] for what in IMPORTED}
    for number in range(rounds + 1):  # the first one compiles, and does not count
        say(f"imports, round {number} of {rounds}")
        for what, more in IMPORTED.items():
            child = subprocess.run(
                [sys.executable, "-c", IMPORT.format(more=more)],
                stdout=subprocess.PIPE,
                timeout=ONLINE_TIMEOUT,
                check=True,
            )
            if number:
                values[what].append(json.loads(child.stdout))
    return {
        what: {name: Figure(tuple(row[column] for row in rows)) for column, name in enumerate(names)}
        for what, rows in values.items()
    }


def imports_as_json(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, Any]:
    """With what each costs in terms of RNS alone: in all, and what comes on top in the same process."""
    alone = figures["RNS"]
    return {
        what: {
            "seconds": mine["total"].as_json(),
            "seconds_after_rns": mine["after_rns"].as_json(),
            "cpu_seconds": mine["cpu"].as_json(),
            "resident_mib": mine["resident"].as_json(),
            "per_rns": mine["total"].per(alone["total"]).as_json(),
            "cpu_per_rns": mine["cpu"].per(alone["cpu"]).as_json(),
            "after_rns_per_rns": mine["after_rns"].per(alone["total"]).as_json(),
        }
        for what, mine in figures.items()
    }


# --- all of it ----------------------------------------------------------------------------------------------


async def measured(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """The results of the parts that are asked for and that can be had here."""
    result: dict[str, Any] = {}
    driver = "bleak" if IN_GUEST else "bumble"
    if "radio" in arguments.part and not IN_GUEST:
        say("radio")
        result["radio"] = (await on_radio(arguments.rounds)).as_json()
    if "bluez" in arguments.part and IN_GUEST:
        sides = {"rns_ble": [sys.executable, str(HERE / "nodes" / "setup_node.py")]}
        if arguments.reference is not None:
            theirs = arguments.reference_python, str(HERE / "nodes" / "reference_setup_node.py")
            sides["ble-reticulum"] = [*theirs, str(arguments.reference.checkout)]
            sides["ble-reticulum, without its wait"] = [*sides["ble-reticulum"], "--without-wait"]
        links = await on_bluez(arguments.rounds, sides, directory)
        result["bluez"] = {name: times.as_json() for name, times in links.items()}
    if "start" in arguments.part:
        figures = await starts(driver, arguments.rounds, directory)
        result["start"] = {"driver": driver} | {name: one.as_json() for name, one in figures.items()}
    if "imports" in arguments.part and not IN_GUEST:
        result["imports"] = imports_as_json(await trio.to_thread.run_sync(imports, arguments.rounds))
    if "idle" in arguments.part:
        result["idle"] = {
            "driver": driver,
            **await idle(driver, arguments.idle_seconds, arguments.rounds, directory),
        }
    return result


def in_guest(version: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What this program measures with that BlueZ. Each part has a guest of its own: where bluetoothd ends in
    one of them, which 5.82 does at times, the others are measured all the same.
    """
    results: dict[str, Any] = {"failures": []}
    for part in GUEST_PARTS:
        if part not in arguments.part:
            continue
        say(f"a guest with BlueZ {version}: {part}")
        command = ["bash", str(BOOT), "--bluez", version, "-n", "4", "-t", f"{GUEST_TIMEOUT:g}"]
        command += ["--python", sys.executable, sys.executable, str(Path(__file__).resolve()), "--json"]
        command += ["--rounds", str(arguments.rounds), "--idle-seconds", str(arguments.idle_seconds)]
        command += ["--part", part]
        if arguments.reference is not None:
            command += ["--reference", str(arguments.reference.checkout)]
            command += ["--reference-python", arguments.reference_python]
        # Its own time limit comes first: it ends the guest, which this one alone would leave behind.
        guest = subprocess.run(command, stdout=subprocess.PIPE, timeout=2 * GUEST_TIMEOUT, check=False)
        if guest.returncode:
            results["failures"].append(f"{part}: exit code {guest.returncode}, see above")
        else:
            results[part] = json.loads(guest.stdout)[part]
    return results


def shown(result: Mapping[str, Any]) -> str:
    """As text."""

    def cells(figure: Mapping[str, float]) -> list[str]:
        return [f"{figure[name]:g}" for name in ("median", "least", "most")]

    heads = ("median", "least", "most")
    blocks = []
    links = {"rns_ble, radio": result["radio"]} if "radio" in result else {}
    links |= {f"{name}, BlueZ": times for name, times in result.get("bluez", {}).items()}
    rows = [
        [f"{name}, {kind}", *cells(times[kind])]
        for name, times in links.items()
        for kind in ("cold", "reconnect")
        if kind in times
    ]
    if rows:
        blocks.append(table(("sighting to handshake, ms", *heads), rows))
    blocks += [f"{name}: {why}" for name, times in links.items() for why in times["failures"]]
    blocks += result.get("failures", [])
    if "start" in result:
        rows = [[name, *cells(figure)] for name, figure in result["start"].items() if name != "driver"]
        blocks.append(
            table((f"start of rnsd, s, and MiB (driver {result['start']['driver']})", *heads), rows)
        )
    if "imports" in result:
        for name, head in (
            ("seconds", "import, s"),
            ("per_rns", "import, in all / RNS alone"),
            ("after_rns_per_rns", "import, on top of RNS / RNS alone"),
            ("cpu_per_rns", "import, processor time / RNS alone"),
            ("resident_mib", "resident, MiB"),
        ):
            rows = [[what, *cells(figures[name])] for what, figures in result["imports"].items()]
            blocks.append(table((head, *heads), rows))
    if "idle" in result:
        figures = result["idle"]
        head = f"idle, % of a core (driver {figures['driver']}, {figures['peers']} peers)"
        rows = [["rnsd", *cells(figures["rnsd"])]]
        rows += [
            [name, *cells(figures[name])]
            for name in ("rnsd_without_interface", "ether", "bluetoothd")
            if name in figures
        ]
        blocks.append(table((head, *heads), rows))
        rows = [["rnsd", *cells(figures["resident_mib"])]]
        rows += [["rnsd_without_interface", figures["resident_mib_without_interface"], "", ""]]
        blocks.append(table(("idle, resident MiB", *heads), rows))
    return "\n\n".join(blocks)


def main() -> None:
    """Measure and print."""
    parser = arguments_of("What a user waits for, and what an idle interface costs.", rounds=5)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument(
        "--guest",
        choices=("5.66", "5.82"),
        action="append",
        default=[],
        help="also in the laboratory's guest, with this BlueZ; may be repeated",
    )
    parser.add_argument(
        "--idle-seconds",
        type=seconds_to_wait,
        default=30.0,
        metavar="S",
        help="how long idle is measured, in each round (30)",
    )
    parser.add_argument(
        "--reference-python",
        default=PYTHON,
        metavar="PROGRAM",
        help=f"a Python that has what ble-reticulum needs: see link_reference.py ({PYTHON})",
    )
    arguments = parser.parse_args()
    if "bluez" in (arguments.part or ()) and not (IN_GUEST or arguments.guest):
        parser.error("bluez needs the laboratory's guest: add --guest 5.66 or --guest 5.82")
    if IN_GUEST and arguments.guest:
        parser.error("this is the guest: leave --guest out")
    if IN_GUEST and not set(arguments.part or PARTS) & set(GUEST_PARTS):
        parser.error(f"in the guest there are {', '.join(GUEST_PARTS)}")
    if arguments.rounds * arguments.idle_seconds > IDLE_MAXIMUM:
        parser.error(f"--rounds times --idle-seconds is up to {IDLE_MAXIMUM:g}")
    check_reference_python(parser, arguments)
    if arguments.reference is not None and not (IN_GUEST or arguments.guest):
        say("--reference is of no use without --guest: ble-reticulum is measured on BlueZ only")
    arguments.part = arguments.part or PARTS
    with tempfile.TemporaryDirectory(prefix="rns_ble_setup.") as name:
        # An installed package has its bytecode; without it each process would compile all that it imports.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(name, "bytecode"))
        os.environ["PYTHONUNBUFFERED"] = "1"
        result = trio.run(partial(measured, arguments, Path(name)))
    if not IN_GUEST:
        result["guests"] = {version: in_guest(version, arguments) for version in arguments.guest}
    with readable_output():
        if arguments.json:
            more = {"rounds": arguments.rounds, "links_in": "ms", "start_in": "s", "idle_in": "% of a core"}
            print(json.dumps({**setting("setup_time", arguments.reference, **more), **result}))
            return
        print(shown(result))
        for version, inside in result.get("guests", {}).items():
            print(f"\nBlueZ {version}\n\n{shown(inside)}")


if __name__ == "__main__":
    main()
