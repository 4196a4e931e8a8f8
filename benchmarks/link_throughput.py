"""One link, in each of the ways to have one: values, delays, and what Reticulum gets out of it.

- `sockets`: our own share of a link on BlueZ. A socket pair takes the place of the socket from bluetoothd, so
  that neither a radio nor bluetoothd is in it.
- `radio`: the virtual radio and its Bluetooth hosts in this process; and a Resource between two Reticulum
  nodes, which meet on an ether process as those of `rns-ble demo` do.
- `bluez`: the real bluetoothd in the laboratory's guest (docs/bluez-lab.md). Values by sockets beside values
  by D-Bus calls, and with `--reference` beside ble-reticulum's; delays, idle and under bulk; and a Resource,
  with `--reference` also with ble-reticulum's interface.

In the guest the one processor is shared by both ends, bluetoothd, dbus-daemon and the virtual controllers, so
only ratios mean something elsewhere. What `--reference` needs is told in `link_reference.py`.

    python benchmarks/link_throughput.py [--json] [--on WAY]... [--guest 5.66|5.82] [--values N] [--probes N]
        [--resource BYTES] [--rounds N] [--reference PATH] [--reference-python PROGRAM]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from link_reference import PYTHON, REFERENCE
from measuring import arguments_of, at_least_one, check_reference_python, readable_output, setting, table

from rns_ble.cli.errors import CommandError
from rns_ble.cli.progress import Progress
from rns_ble.cli.until_signal import until_signal

THIS: Final = Path(__file__).resolve()
BOOT: Final = THIS.parents[1] / "tests" / "bluez" / "lab" / "boot"

LABORATORY_FAILED: Final = 125
"""Boot's exit status then."""

WAYS: Final = ("sockets", "radio", "bluez")

IN_GUEST: Final = bool(os.environ.get("RNS_BLE_BTLAB"))

SECONDS_A_ROUND: Final = 900
"""The guest's time limit, for each round: 100 were seen with 5.66 and, with fewer values and on a busy
machine, 170 with 5.82. Links that fail take a minute each."""

SECONDS_ASIDE: Final = 600
"""And for everything that is not done in each round."""


class AlreadyTold(CommandError):
    """Something failed, and whoever it was has said so."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = arguments_of("Values, delays and Resources on one link.", rounds=3)
    parser.add_argument(
        "--on",
        action="append",
        choices=WAYS,
        metavar="WAY",
        help="sockets, radio or bluez; may be given several times (all that run here)",
    )
    parser.add_argument("--guest", choices=("5.66", "5.82"), help="boot the laboratory with this BlueZ")
    parser.add_argument(
        "--values", type=at_least_one, default=600, metavar="N", help="values in a flood on BlueZ (600)"
    )
    parser.add_argument(
        "--probes", type=at_least_one, default=50, metavar="N", help="values whose way is timed (50)"
    )
    parser.add_argument(
        "--resource",
        type=at_least_one,
        default=256 * 1024,
        metavar="BYTES",
        help="a Resource's size (262144)",
    )
    parser.add_argument(
        "--reference-python",
        default=PYTHON,
        metavar="PROGRAM",
        help=f"what runs ble-reticulum ({PYTHON})",
    )
    chosen = parser.parse_args()
    if min(chosen.values, chosen.probes) < 2:
        parser.error("--values and --probes start at 2: a speed needs two, and so does a spread")
    check_reference_python(parser, chosen)
    bluez = IN_GUEST or chosen.guest is not None
    chosen.on = tuple(dict.fromkeys(chosen.on or (WAYS if bluez else ("sockets", "radio"))))
    if "bluez" in chosen.on and not bluez:
        parser.error("bluez needs the laboratory's guest: add --guest 5.66 or --guest 5.82")
    if chosen.guest is not None and IN_GUEST:
        parser.error("this is the guest: leave --guest out")
    if not sys.platform.startswith("linux") and {"sockets", "bluez"} & set(chosen.on):
        parser.error("sockets and bluez are Linux's: add --on radio")
    return chosen


async def measure(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """One result for each of the ways."""
    # What a way needs is imported only for it: each is of use where another one lacks something.
    results: dict[str, Any] = {}
    if "sockets" in chosen.on:
        import link_sockets  # noqa: PLC0415

        results["sockets"] = await link_sockets.measure(chosen.rounds, progress)
    if "radio" in chosen.on:
        results["radio"] = await _on_radio(chosen, progress)
    if "bluez" in chosen.on:
        results["bluez"] = await (_in_guest if chosen.guest else _on_bluez)(chosen, progress)
    if chosen.reference is not None and "bluez" not in chosen.on:
        results[REFERENCE] = {"failed": "it is measured on BlueZ only: add --guest 5.66 or --guest 5.82"}
    return results


async def _on_radio(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    import link_goodput  # noqa: PLC0415
    import link_radio  # noqa: PLC0415

    from rns_ble.cli.demo.network import open_network  # noqa: PLC0415

    results = await link_radio.measure(chosen.rounds, progress)
    with tempfile.TemporaryDirectory(prefix="link-throughput-") as directory:
        results["Reticulum"] = await link_goodput.measure(
            open_network(Path(directory)), [{}, {}], chosen.resource, chosen.rounds, progress
        )
    return results


async def _on_bluez(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    import link_bluez  # noqa: PLC0415

    results = await link_bluez.measure(
        chosen.values,
        chosen.probes,
        chosen.resource,
        chosen.rounds,
        chosen.reference,
        chosen.reference_python,
        progress,
    )
    return {"BlueZ": os.environ["RNS_BLE_BLUEZ"], **results}


async def _in_guest(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """What this program tells when it runs in the guest. Cancelled: the guest has ended then."""
    from link_bluez import ADAPTERS  # noqa: PLC0415

    progress.say(f"booting the guest with BlueZ {chosen.guest}; times begin anew in it")
    limit = SECONDS_ASIDE + chosen.rounds * SECONDS_A_ROUND
    boot = ["bash", BOOT, "--bluez", chosen.guest, "-n", ADAPTERS, "-t", limit, "--python", sys.executable]
    again = [sys.executable, THIS, "--json", "--on", "bluez"]
    for name in ("values", "probes", "resource", "rounds", "reference_python"):
        again += [f"--{name.replace('_', '-')}", getattr(chosen, name)]
    if chosen.reference is not None:
        again += ["--reference", chosen.reference.checkout]
    outcome = await trio.run_process([*map(str, (*boot, *again))], capture_stdout=True, check=False)
    if outcome.returncode == LABORATORY_FAILED:
        raise AlreadyTold(LABORATORY_FAILED)
    if outcome.returncode:
        raise CommandError(f"the benchmark failed in the guest, with exit status {outcome.returncode}")
    told: dict[str, Any] = json.loads(outcome.stdout)["bluez"]
    return told


def figures(results: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str, str]]:
    """A row for each figure of a result: what it is, its median, its least and its most."""
    for name, inner in results.items():
        here = (*path, name)
        if isinstance(inner, dict) and inner.keys() == {"median", "least", "most"}:
            median, least, most = (f"{inner[which]:,g}" for which in ("median", "least", "most"))
            yield ", ".join(here), median, least, most
        elif isinstance(inner, dict):
            yield from figures(inner, here)
        else:
            yield ", ".join(here), f"{inner:,g}" if isinstance(inner, float) else str(inner), "", ""


def main() -> None:
    """Measure and print."""
    chosen = arguments()
    progress = Progress(sys.stderr)
    try:
        results = trio.run(until_signal, partial(measure, chosen, progress))
    except CommandError as error:
        if str(error):
            print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except trio.TooSlowError:
        sys.exit("one of the steps has not ended within its deadline")
    finally:
        progress.end()
    told = {
        **setting("link_throughput", chosen.reference, rounds=chosen.rounds),
        **results,
    }
    with readable_output():
        if chosen.json:
            print(json.dumps(told))
            return
        print(f"medians of {chosen.rounds} rounds, on {told['machine']}\n")
        print(table(("", "median", "least", "most"), list(figures(results))))


if __name__ == "__main__":
    main()
