"""The processes of a demo network end with their task, whatever they do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from rns_ble.cli.demo import network
from rns_ble.cli.demo.network import Process, ProcessFailedError

TELL = "import json, sys\ntell = lambda **event: print(json.dumps(event), flush=True)\n"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def process(directory: Path, code: str) -> Process:
    return Process(
        "the child", [sys.executable, "-c", TELL + code], [directory / "log"], trio.lowlevel.ParkingLot()
    )


def is_alive(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


async def run_until_ready(child: Process) -> int:
    """Run a child until it has told its process number, then end its task."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(child.run)
            number = (await child.wait_for("ready"))["pid"]
            assert isinstance(number, int)
            assert is_alive(number)
            nursery.cancel_scope.cancel()
    return number


@pytest.mark.parametrize(
    "code",
    [
        "sys.stdin.read()",
        "import time; time.sleep(1000)",
        STUBBORN + "tell(event='ready', pid=os.getpid())\nwhile True: time.sleep(1000)",
    ],
    ids=["ends with its stdin", "does not read its stdin", "ignores SIGTERM"],
)
async def test_a_child_ends_with_its_task(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "GOODBYE", 0.3)
    monkeypatch.setattr(network, "TERMINATE", 0.3)
    number = await run_until_ready(
        process(tmp_path, f"import os\ntell(event='ready', pid=os.getpid())\n{code}")
    )
    assert not is_alive(number)


async def test_a_child_that_ends_by_itself_is_a_failure_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = process(
        tmp_path, "tell(event='begun')\nfor n in range(30): print('line', n, file=sys.stderr)\nsys.exit(3)"
    )
    with trio.fail_after(60), pytest.raises(ProcessFailedError) as raised:
        await child.run()
    said = str(raised.value)
    assert said.startswith("the child ended with exit code 3; the end of its log:\n")
    assert "  | line 14\n" not in said
    assert said.endswith("  | line 29")
    assert child.seen("begun"), "what it told before stays"


async def test_a_child_that_is_killed_on_purpose_is_none(tmp_path: Path) -> None:
    child = process(tmp_path, "tell(event='ready')\nsys.stdin.read()")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(child.run)
            await child.wait_for("ready")
            await child.kill()
    await child.tell("nobody listens")


async def test_commands_go_in_and_events_come_out_in_order(tmp_path: Path) -> None:
    child = process(
        tmp_path, "for line in sys.stdin: tell(event='echo', line=json.loads(line))\ntell(event='never')"
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(child.run)
            for number in range(100):
                await child.tell("count", number=number, text="ü" * number)
            await child.wait_for("echo", line={"command": "count", "number": 99, "text": "ü" * 99})
            nursery.cancel_scope.cancel()
    assert [event["line"]["number"] for event in child.events if event["event"] == "echo"] == list(range(100))
    assert child.seen("echo", 50)["line"]["number"] == 50
    assert child.seen("echo", 100) is None
