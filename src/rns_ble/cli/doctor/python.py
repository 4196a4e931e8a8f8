"""The Python that the interface runs in, which need not be the one that runs this command."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from typing import Final

import rns_ble
from rns_ble.cli import rnsd_python
from rns_ble.cli.doctor.case import Case
from rns_ble.cli.doctor.finding import Command, Finding, Mend, failed, ok, skipped, warning

OLDEST_RETICULUM: Final = (1, 4, 2)
BEYOND_RETICULUM: Final = (1, 6)
"""Which Reticulum this package works with, as pyproject.toml says."""

OLDEST_PYTHON: Final = (3, 11)
BEYOND_PYTHON: Final = (3, 14)
"""As pyproject.toml says: trio-asyncio 0.16 needs what Python 3.14 no longer has."""


def check_python(case: Case) -> Iterator[Finding]:
    """Can the program that brings the interface up import this package?"""
    program, there = case.program, case.installation
    if program is None and case.owner is None:
        yield failed(
            "Python",
            "there is no rnsd on PATH, and none beside this Python",
            Command((sys.executable, "-m", "pip", "install", "rns")),
        )
    elif program is None:
        yield skipped(
            "Python", f"{case.owner} does not show which Python it uses: ask as its user, or as root"
        )
    elif there is None:
        yield skipped("Python", f"{program.name}: this user may not run {program.interpreter}: ask as root")
    elif there.rns_ble is not None:
        yield ok("Python", f"{program.name} runs with {there.interpreter}: {there.python}, {there.kind}")
    elif _numbers(there.python) and not OLDEST_PYTHON <= _numbers(there.python)[:2] < BEYOND_PYTHON:
        yield failed(
            "Python",
            f"{program.name} runs with {there.interpreter}: Python {there.python}, and rns_ble needs 3.11 to "
            "3.13",
            "install Reticulum and rns_ble with one of those, for example in a virtual environment",
        )
    else:
        yield failed(
            "Python",
            f"{program.name} runs with {there.interpreter} ({there.kind}), which can't import rns_ble "
            f"({there.error}); this rns-ble runs with {sys.executable}",
            _install(case, there.interpreter),
        )


def check_reticulum(case: Case) -> Iterator[Finding]:
    """Is that program's Reticulum one that this package works with?"""
    there = case.installation
    if there is None:
        yield skipped("Reticulum", "which one it is can't be seen without its Python")
    elif there.rns is None:
        yield failed(
            "Reticulum", f"{there.interpreter} has none: {there.error}", _pip(case, there.interpreter, "rns")
        )
    elif _numbers(there.rns) < OLDEST_RETICULUM:
        yield failed(
            "Reticulum", f"{there.rns}, and 1.4.2 is needed", _pip(case, there.interpreter, "rns>=1.4.2,<1.6")
        )
    elif _numbers(there.rns) >= BEYOND_RETICULUM:
        yield warning(
            "Reticulum",
            f"{there.rns}: this rns_ble is tested up to 1.5",
            _pip(case, there.interpreter, "rns>=1.4.2,<1.6"),
        )
    else:
        yield ok("Reticulum", there.rns)


def check_version(case: Case) -> Iterator[Finding]:
    """Is it this version of the package that runs there?"""
    there = case.installation
    if there is None or there.rns_ble is None:
        yield skipped("rns_ble", "it can't be imported there, or nobody may look")
    elif there.rns_ble != rns_ble.__version__:
        yield warning(
            "rns_ble",
            f"{there.rns_ble} there, {rns_ble.__version__} here",
            _install(case, there.interpreter, again=True),
        )
    else:
        yield ok("rns_ble", there.rns_ble)


def _install(case: Case, interpreter: str, *, again: bool = False) -> Mend:
    return case.in_its_environment(rnsd_python.how_to_install(interpreter, again=again))


def _pip(case: Case, interpreter: str, requirement: str) -> Mend:
    return case.in_its_environment(shlex.join([interpreter, "-m", "pip", "install", requirement]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
