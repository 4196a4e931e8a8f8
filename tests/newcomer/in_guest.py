"""What the newcomer does after the installation, in the laboratory's guest, which has an adapter and BlueZ.

`python -m tests.newcomer.in_guest ROOT RNSD SAYS [COMMANDS PATTERN]...`: in that root, start what stays, and
wait until it says something; then type each of the commands until what it prints has its pattern.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import trio

from tests.newcomer.terminals import Terminal

DEADLINE: Final = 240.0  # seconds; a guest is slow
MOUNTS: Final = (
    ("-t", "proc", "proc", "proc"),
    ("--rbind", "/dev", "dev"),
    ("--rbind", "/run", "run"),
)


async def main(root: str, rnsd: str, says: str, *looks: str) -> int:
    for *options, place in MOUNTS:
        await trio.run_process(["mount", *options, f"{root}/{place}"])

    def terminal() -> Terminal:
        return Terminal(["chroot", root, "su", "-", "newcomer", "-c"], os.environ, Path("/"))

    async with terminal().stays(rnsd) as first:
        second = terminal()
        with trio.move_on_after(DEADLINE) as patience:
            # A `rnstatus` before that would take the place that rnsd is about to take.
            await first.shows(says)
            for commands, pattern in zip(looks[::2], looks[1::2], strict=True):
                sys.stdout.write(await second.until(commands, pattern))
    if patience.cancelled_caught:
        sys.stdout.write(f"gave up on this, from the second terminal:\n{second.output}\n")
    sys.stdout.write(f"rnsd has printed:\n{first.output}\n")
    return int(patience.cancelled_caught)


if __name__ == "__main__":
    sys.exit(trio.run(main, *sys.argv[1:]))
