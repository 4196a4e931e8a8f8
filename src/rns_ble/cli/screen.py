"""The whole terminal for a view that changes, and how a person leaves it.

Only sequences that every terminal of the last decades knows (ECMA-48, and xterm's private modes 7, 25 and
1049, which others ignore): no terminfo entry has to be installed for them, and many are not, on a Pi that is
reached from a new terminal. The terminal is put back however the view ends: by a key, a signal or a bug.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

import trio

from rns_ble.cli.until_signal import SignalledError, until_signal
from rns_ble.cli.views import Line, Style

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""Another screen, no cursor, no wrapping of lines that are too long."""
_LEAVE: Final = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l"

_HOME: Final = "\x1b[H"
_END_OF_LINE: Final = "\x1b[K"
_END_OF_SCREEN: Final = "\x1b[J"
_STYLES: Final = {Style.HEADING: "\x1b[1m", Style.GOOD: "\x1b[32m", Style.BAD: "\x1b[31m"}
_NO_STYLE: Final = "\x1b[m"

_SCROLLS: Final = {
    b"j": (1, 0),
    b"\x1b[B": (1, 0),
    b"\x1bOB": (1, 0),
    b"k": (-1, 0),
    b"\x1b[A": (-1, 0),
    b"\x1bOA": (-1, 0),
    b" ": (0, 1),
    b"\x1b[6~": (0, 1),
    b"b": (0, -1),
    b"\x1b[5~": (0, -1),
}
"""Key → by how many lines, and pages: down is positive. Letters are those of less(1)."""

_KEY: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)
"""Who holds a key down types several at once."""

Render = Callable[[int], list[Line]]
"""What to show in so many columns."""


def is_capable() -> bool:
    """Whether there is a terminal on both sides that can be addressed."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class _Screen:
    """The terminal, as long as it is ours."""

    def __init__(self) -> None:
        self._colour = not os.environ.get("NO_COLOR")
        self._first = 0  # the line at the top
        self._saved = termios.tcgetattr(0)

    def enter(self) -> None:
        tty.setcbreak(0)  # keys come at once, and Ctrl-C stays a signal
        _write(_ENTER)

    def leave(self) -> None:
        _write(_LEAVE)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def suspend(self) -> None:
        """Stop until a shell continues us; where no shell can, only show the screen anew.

        SIGTSTP's default action tells the two apart: the kernel discards it in an orphaned process group
        (`ssh -t HOST rns-ble monitor`), which SIGSTOP would stop for good.
        """
        self.leave()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.enter()

    def draw(self, title: str, render: Render) -> None:
        """Show the part of it that has been scrolled to."""
        width, height = _size()
        lines = render(width)
        room = max(0, height - 1)
        self._first = max(0, min(self._first, len(lines) - room))
        shown = [Line(self._title(title, len(lines), room, width), Style.HEADING)]
        shown += lines[self._first : self._first + room]
        rows = [self._styled(line, width) + _END_OF_LINE for line in shown[:height]]
        _write(_HOME + "\r\n".join(rows) + _END_OF_SCREEN)

    def _title(self, title: str, lines: int, height: int, width: int) -> str:
        keys = "q leaves"
        if lines > height:
            keys = f"{self._first + 1} to {self._first + height} of {lines}, j and k scroll, {keys}"
        both = f"{title}  {keys}"
        return both if len(both) <= width else keys

    def _styled(self, line: Line, width: int) -> str:
        text = line.text[:width]
        style = _STYLES.get(line.style) if self._colour else None
        return f"{style}{text}{_NO_STYLE}" if style else text

    def scroll(self, key: bytes) -> None:
        """By what this key means; `draw` keeps it within bounds."""
        lines, pages = _SCROLLS.get(key, (0, 0))
        self._first += lines + pages * max(1, _size()[1] - 2)


def _size() -> tuple[int, int]:
    """Columns and lines, now; not those of the environment, which do not follow a resize."""
    try:
        columns, lines = os.get_terminal_size(1)
    except OSError:  # the terminal is gone, which whoever reads keys finds out
        columns = lines = 0
    return columns or 80, lines or 24  # a serial line does not know


def _write(text: str) -> None:
    data = text.encode(sys.stdout.encoding or "ascii", "replace")
    with suppress(OSError):  # the terminal is gone
        while data:
            data = data[os.write(1, data) :]


def _typed() -> bytes:
    """What was typed; as if somebody left, when there is no terminal any more."""
    try:
        return os.read(0, 64) or b"q"
    except OSError:
        return b"q"


@contextmanager
def _screen() -> Iterator[_Screen]:
    screen = _Screen()
    try:
        screen.enter()
        yield screen
    finally:
        screen.leave()


async def show(title: Callable[[], str], update: Callable[[], None], render: Render, interval: float) -> None:
    """Show what `render` makes, anew after each `update`, until a person leaves with `q`.

    `update` is called every `interval` seconds, and once before anything is shown; it may take a moment.
    Cancelled: the terminal is as it was.
    """
    events, happened = trio.open_memory_channel[bytes](16)
    with _screen() as screen, trio.open_signal_receiver(signal.SIGWINCH, signal.SIGTSTP) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    if number == signal.SIGTSTP:
                        screen.suspend()
                    await events.send(b"")

            async def read() -> None:
                while True:
                    await trio.lowlevel.wait_readable(0)
                    for key in _KEY.findall(_typed()):
                        await events.send(key)

            nursery.start_soon(listen)
            nursery.start_soon(read)
            while True:
                update()
                due = trio.current_time() + interval
                while True:
                    screen.draw(title(), render)
                    with trio.move_on_at(due) as waiting:
                        key = await happened.receive()
                    if waiting.cancelled_caught:
                        break
                    if key in (b"q", b"Q"):
                        nursery.cancel_scope.cancel()
                        return
                    screen.scroll(key)


def run_view(view: Callable[[], Awaitable[None]]) -> Literal[0]:
    """`trio.run` of a view that lasts until it is left, over, or interrupted with Ctrl-C.

    Raises `SignalledError` for signals that no person sends with a key, and what the view raises.
    """
    try:
        trio.run(until_signal, view)
    except SignalledError as error:
        if error.exit_code != 128 + signal.SIGINT:
            raise
    return 0
