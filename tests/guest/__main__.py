"""`python -m tests.guest RESULT GENERATION…`: run all guests once, in a laboratory that is there.

A process of its own, beside the one that runs all other tests. It ends when its stdin does, so it never
outlives that one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import trio

from tests.guest.guests import run_all


async def main(result: str, *generations: str) -> None:
    def show(line: str) -> None:
        sys.stdout.write(f"\n{line}")
        sys.stdout.flush()

    async with trio.open_nursery() as nursery:

        async def until_stdin_ends() -> None:
            async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stdin:
                while await stdin.receive_some():
                    pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(until_stdin_ends)
        guests = await run_all(list(generations), show)
        await trio.Path(result).write_text(json.dumps([asdict(guest) for guest in guests]))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
