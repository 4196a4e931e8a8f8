"""What the interfaces on this host say of themselves, asked with `rns-ble status`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from deploy.host.command import Problem, check, run
from deploy.host.service import Service

ANSWER_LIMIT: Final = 60.0
"""Seconds for a command of `rns-ble`, what it was told to wait for aside: a Pi Zero takes 5 to load it."""

PAUSE: Final = 0.5
"""Seconds between two looks at interfaces that are the old ones still, or not all there. There is nothing to
wait for: whoever answers next has not been started yet."""

SLACK: Final = 1.0
"""Seconds by which an interface may seem older than the restart: it rounds its age."""


@dataclass(frozen=True)
class Interfaces:
    """One answer."""

    known: list[dict[str, Any]]
    errors: list[str]

    @property
    def online(self) -> set[str]:
        """The names of those that are."""
        return {str(interface["name"]) for interface in self.known if interface["online"]}

    @property
    def why_not(self) -> str | None:
        """Why not all is well; None: it is."""
        for interface in self.known:
            if not interface["online"]:
                return f"{interface['name']} is offline: {interface['offline_reason']}"
        return next(iter(self.errors), None if self.known else "no interface answers")


def command(service: Service, *words: str) -> list[str]:
    """An `rns-ble` command for the configuration of that rnsd."""
    config = ["--config", service.config] if service.config else []
    return [service.interpreter, "-m", "rns_ble.cli", *words, *config]


def ask(service: Service, wait: float = 0) -> Interfaces | None:
    """Ask; None when this version can't be asked."""
    waiting = ["--wait", f"{wait:g}"] if wait else []
    asked = command(service, "status", "--json", *waiting)
    ended = run(asked, limit=wait + ANSWER_LIMIT, user=service.user)
    try:
        answer = json.loads(ended.output)
        return Interfaces(answer["interfaces"], answer["errors"])
    except (ValueError, KeyError, TypeError):
        return None


def wait_for_new(service: Service, wait: float, since: float, version: str, expected: set[str]) -> Interfaces:
    """Wait until a process that has started since then runs this version of all these interfaces, all online.

    `since` is of `time.monotonic()`, just before the restart. Raises `Problem` that says what is missing
    after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while True:
        answer = ask(service, max(deadline - time.monotonic(), PAUSE))
        missing = (
            "`rns-ble status` does not answer"
            if answer is None
            else _missing(answer, since, version, expected)
        )
        if answer is not None and missing is None:
            return answer
        if time.monotonic() + PAUSE >= deadline:
            raise Problem(f"{missing}, after {wait:g} s")
        time.sleep(PAUSE)


def _missing(answer: Interfaces, since: float, version: str, expected: set[str]) -> str | None:
    if (reason := answer.why_not) is not None:
        return reason
    for interface in answer.known:
        if interface["age"] > time.monotonic() - since + SLACK:
            return f"process {interface['pid']} was there before the restart, and still runs"
        if interface["version"] != version:
            return f"process {interface['pid']} runs version {interface['version']}"
    if absent := sorted(expected - answer.online):
        return f"{absent[0]}, which was online before, does not answer"
    return None


@dataclass
class Shim:
    """The file that makes Reticulum load the interface, as `rns-ble install` has left it."""

    path: str
    written: bool
    backup: str | None

    @staticmethod
    def install(service: Service) -> Shim:
        """Write it where it is not there. Raises `Problem`, also where no interface is enabled at all."""
        printed = check(
            command(service, "install", "--json"), "rns-ble install", limit=ANSWER_LIMIT, user=service.user
        )
        outcome = json.loads(printed)
        shim = Shim(outcome["shim"], outcome["shim_written"], outcome["shim_backup"])
        if not outcome["enabled"]:
            shim.undo(service)
            raise Problem(
                f"no BLE interface is enabled in {outcome['config_directory']}/config: "
                f"{outcome['enable_command']}"
            )
        return shim

    def undo(self, service: Service) -> None:
        """Put back what was there before. Raises `Problem`."""
        if self.backup is not None:
            undone = ["mv", "-f", "--", self.backup, self.path]
        elif self.written:
            undone = ["rm", "-f", "--", self.path]
        else:
            return
        check(undone, "putting back the old BLEInterface.py", limit=ANSWER_LIMIT, user=service.user)
