"""`rns-ble doctor`: what keeps the interface from working here, and what mends it.

One module for each subject: `python`, `reticulum`, `bluez` and its `settings`, `radio`, `dongle`,
`interface`. A check is a generator of findings (`finding`) about one case (`case`): a configuration on this
machine. What mends a thing is data, a file's new content or a command, so that it can be shown before it is
done (`mending`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rns_ble.cli.arguments import add_config
from rns_ble.cli.doctor.finding import Check, Finding, State, skipped
from rns_ble.cli.errors import UsageError
from rns_ble.cli.progress import Progress

if TYPE_CHECKING:
    from rns_ble.cli.doctor.case import Case


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        "--fix",
        action="store_true",
        help="mend what can be mended: show each change and ask; copies of changed files are kept",
    )
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Examine, mend if asked to, report; 0 when nothing has failed."""
    from rns_ble.cli.doctor.mending import mend_all  # noqa: PLC0415  (brings in nothing heavy, but not for --help)
    from rns_ble.cli.doctor.screen import Screen  # noqa: PLC0415

    if arguments.yes and not arguments.fix:
        raise UsageError("--yes goes with --fix")
    if arguments.fix and not arguments.yes and not sys.stdin.isatty():
        raise UsageError("--fix asks before each change, and nobody can answer here: add --yes")
    aside = Screen(sys.stderr)

    def agree() -> bool:
        if arguments.yes:
            return True
        sys.stderr.write("Do this? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    done: list[str] = []
    if arguments.fix:
        findings, done = mend_all(lambda: examine(arguments.config), agree, aside.say, arguments.config)
    else:
        findings = examine(arguments.config)
    failures = any(finding.state is State.FAILED for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": not failures, "checks": [_as_json(f) for f in findings], "mended": done}))
    else:
        named = f" --config {shlex.quote(arguments.config)}" if arguments.config else ""
        Screen(sys.stdout).show(findings, "" if arguments.fix else f"rns-ble doctor{named} --fix")
    return 1 if failures else 0


def _as_json(finding: Finding) -> dict[str, str | None]:
    mend = None if finding.mend is None else str(finding.mend)
    return {"name": finding.name, "state": str(finding.state), "found": finding.found, "mend": mend}


def examine(explicit: str | None = None) -> list[Finding]:
    """Make every check, with a line on stderr that says which."""
    from rns_ble.cli.doctor.case import Case  # noqa: PLC0415

    case = Case(explicit)
    findings: list[Finding] = []
    progress = Progress(sys.stderr)
    steps = list(_checks(case))
    try:
        for number, (subject, check) in enumerate(steps, 1):
            progress.show(f"looking at {subject}", number, len(steps))
            findings += check(case)
    finally:
        progress.end()
    return findings


def _checks(case: Case) -> Iterator[tuple[str, Check]]:
    """Each check of this case, with what it is about."""
    from rns_ble.cli.doctor import bluez, dongle, interface, python, radio, reticulum, settings  # noqa: PLC0415

    yield "rnsd's Python", python.check_python
    yield "Reticulum", python.check_reticulum
    yield "rns_ble", python.check_version
    yield "the configuration", reticulum.check_configuration
    yield "the shim", reticulum.check_shim
    yield "the section", reticulum.check_sections
    yield "the shared instance", reticulum.check_shared_instance
    yield "the configuration", reticulum.check_in_force
    if case.interfaces_with("bleak"):
        yield "D-Bus", bluez.check_bus
        yield "BlueZ", bluez.check_daemon
        yield "BlueZ's version", bluez.check_offers
        yield "the adapter", radio.check_adapters
        yield "main.conf", settings.check_settings
    else:
        who = "driver = bumble does" if case.interfaces else "a driver of one's own may do"
        yield "BlueZ", lambda _: iter([skipped("BlueZ", f"{who} without it")])
    if case.interfaces_with("bumble"):
        yield "the controller", dongle.check_dongles
    yield "the interface", interface.check_interface
