"""Ble-reticulum's own Bluetooth driver, and its interface, in processes of their own and with what it needs.

It needs bleak 1.1.1, bluezero, dbus-python, PyGObject and Reticulum, which this package's environment lacks.
On Debian a throw-away environment has them so:

    apt-get install python3-venv python3-dbus python3-gi
    /usr/bin/python3 -m venv --system-site-packages reference
    reference/bin/python -m pip install bleak==1.1.1 rns
    reference/bin/python -m pip install --no-deps bluezero==0.9.1

and `--reference-python reference/bin/python` names it. The version of Reticulum matters for its interface:
seen were no announce that arrives with 1.5.7, and with 1.0.4 announces, but no Resource whole. Bluezero comes
without what it requires, because with that pip builds a PyGObject of its own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import trio
from measuring import Reference

NODE: Final = Path(__file__).parent / "nodes" / "reference_node.py"

RETICULUM_NODE: Final = NODE.with_name("reference_reticulum_node.py")

REFERENCE: Final = "ble-reticulum"
"""Its name among the contestants."""

REFERENCE_SIZES: Final = (20, 182, 244, 505)
"""Bytes: as ours, but for the longest, which is the longest fragment that its interface makes of an ATT MTU
of 517."""

PYTHON: Final = "/usr/bin/python3"
"""What runs it unless told: the one for which Debian's packages are."""

LOOK_TIMEOUT: Final = 30.0
"""Seconds to import what it needs."""


async def needs(python: str, reference: Reference) -> str | None:
    """What is missing for it to run, as one line; None: nothing."""
    modules = "dbus, gi, bleak, bluezero.peripheral, RNS, linux_bluetooth_driver"
    look = f"import sys; sys.path.insert(0, {str(reference.modules)!r}); import {modules}"
    try:
        with trio.fail_after(LOOK_TIMEOUT):
            outcome = await trio.run_process(
                [python, "-c", look],
                stdout=subprocess.DEVNULL,
                capture_stderr=True,
                check=False,
            )
    except (OSError, trio.TooSlowError) as error:
        return f"{python}: {error or 'takes too long'}"
    if outcome.returncode == 0:
        return None
    return f"{python}: {outcome.stderr.decode(errors='replace').strip().splitlines()[-1]}"


def commands(python: str, reference: Reference, *adapters: str, node: Path = NODE) -> list[list[str]]:
    """What starts it, on each of these adapters. `node`: the program, for example `RETICULUM_NODE`, which
    takes its directory besides.
    """
    return [[python, str(node), str(reference.modules), adapter] for adapter in adapters]
