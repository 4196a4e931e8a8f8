"""A chat between Reticulum nodes over Bluetooth LE: type a line, and see who has got it.

    rns-ble ether                           in a first terminal: the virtual radio
    python examples/chat/chat.py anna       in a second one
    python examples/chat/chat.py ben        in a third one

It is an ordinary LXMF program, and knows nothing of Bluetooth but that there is an interface for it. Who is
there and under which name, Reticulum's announces tell. Every line is an LXMF message to each of them, over an
encrypted link, and each of them proves that it has arrived.

Reticulum and LXMF run threads of their own and call back on them; `Chat` is what they call. The main thread
reads the terminal, and one more looks whether somebody has come into range.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

try:
    import LXMF
    import RNS
    from prompt_toolkit import PromptSession
    from prompt_toolkit.patch_stdout import patch_stdout

    from rns_ble.cli.errors import CommandError
    from rns_ble.cli.install import write_shim
    from rns_ble.cli.reticulum_config import INTERFACE_TYPE, parse
except ModuleNotFoundError as missing:
    sys.exit(
        f"chat: {sys.executable} has no {missing.name}. In a clone of rns_ble:\n"
        "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]', then run it with .venv/bin/python"
    )

LOOK_AGAIN: Final = 0.5
"""Seconds between two looks at who is in range; Reticulum has no event for that."""

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

HOME: Final = Path.home() / ".rns-ble-chat"

LAST_PROOFS: Final = 15.0
"""Seconds that an end by Ctrl-D waits for proofs: LXMF tries again after 10 s what was lost on its way."""


def say(text: str) -> None:
    """Show a line, from any thread."""
    print(text, flush=True)


def printable(text: str) -> str:
    """What somebody else has written, in one line and without anything that a terminal obeys."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


class Chat:
    """One participant."""

    aspect_filter: Final = "lxmf.delivery"
    """Which announces Reticulum brings here: those of LXMF addresses."""

    def __init__(self, name: str, directory: Path) -> None:
        """Start Reticulum with the configuration in `directory`. Raises `CommandError` without an
        interface.
        """
        self._names: dict[bytes, str] = {}
        """LXMF address → the name that it was announced with."""
        self._early: list[str] = []
        """Lines for whoever comes first."""
        self._sent: dict[Any, float] = {}
        """Messages on their way → when they were sent."""
        self._lost = 0
        self._lock = threading.Condition()
        """For these four, and a change of them."""
        self._ending = threading.Event()
        RNS.Reticulum(str(directory), logdest=RNS.LOG_FILE)
        self._radios = [radio for radio in RNS.Transport.interfaces if type(radio).__name__ == INTERFACE_TYPE]
        if not self._radios:
            raise CommandError(
                f"no BLE interface came up: see {directory}, what `config` asks for and `logfile` says"
            )
        self._router = LXMF.LXMRouter(identity=_identity(directory), storagepath=str(directory))
        self._address = self._router.register_delivery_identity(self._router.identity, display_name=name)
        self._router.register_delivery_callback(self._received)
        RNS.Transport.register_announce_handler(self)

    # --- who is there ---

    def look_around(self) -> None:
        """Announce ourselves whenever somebody has come into range. Returns when the chat ends."""
        linked: set[str] = set()
        while not self._ending.wait(LOOK_AGAIN):
            peers = {peer.name for radio in self._radios for peer in radio.peers.copy()}
            if peers - linked:
                self._address.announce()
            linked = peers

    def received_announce(self, destination_hash: bytes, announced_identity: Any, app_data: bytes) -> None:
        """Somebody has announced himself. Called by Reticulum, with arguments of these names."""
        name = printable(LXMF.display_name_from_app_data(app_data) or "") or destination_hash.hex()[:8]
        with self._lock:
            known = self._names.get(destination_hash)
            self._names[destination_hash] = name
            early, self._early = self._early, []
        if known is None:
            hops = RNS.Transport.hops_to(destination_hash)
            say(f"* {name} is here ({hops} {'hop' if hops == 1 else 'hops'})")
            self._address.announce()  # who has just come may not have heard of us
        elif known != name:
            say(f"* {known} is now {name}")
        for line in early:
            self._send(destination_hash, line)

    # --- what is said ---

    def send(self, line: str) -> None:
        """Send a line to everybody who is here, or else to whoever comes first."""
        with self._lock:
            everybody = list(self._names)
            if not everybody:
                self._early.append(line)
        if not everybody:
            say("  Nobody is here yet; whoever comes first gets it")
        for address in everybody:
            self._send(address, line)

    def _send(self, address: bytes, line: str) -> None:
        destination = RNS.Destination(
            RNS.Identity.recall(address), RNS.Destination.OUT, RNS.Destination.SINGLE, "lxmf", "delivery"
        )
        message = LXMF.LXMessage(destination, self._address, line, desired_method=LXMF.LXMessage.DIRECT)
        message.register_delivery_callback(self._concluded)
        message.register_failed_callback(self._concluded)
        with self._lock:
            self._sent[message] = time.monotonic()
        self._router.handle_outbound(message)

    def _concluded(self, message: Any) -> None:
        """A message is proved, or LXMF has given it up."""
        with self._lock:
            if (sent := self._sent.pop(message, None)) is None:
                return  # the late proof of an earlier try
            name = self._names[message.destination_hash]
            arrived = message.state == LXMF.LXMessage.DELIVERED
            self._lost += not arrived
            self._lock.notify_all()
        what = "✓ {} has got it, proved after" if arrived else "✗ {} has not got it, given up after"
        say(f"  {what.format(name)} {time.monotonic() - sent:.2f} s: {message.content_as_string()}")

    def _received(self, message: Any) -> None:
        with self._lock:
            name = self._names.get(message.source_hash, message.source_hash.hex()[:8])
        # Anybody can write any name into a message; the signature tells whether it is who was announced.
        doubt = "" if message.signature_validated else " (unverified)"
        say(f"{name}{doubt}: {printable(message.content_as_string())}")

    # --- the end ---

    def wait_for_proofs(self) -> None:
        """Wait until everything has arrived, or for as long as that makes sense."""
        with self._lock:
            if self._sent or self._early:
                say(f"  Waiting {LAST_PROOFS:.0f} s at most for what is on its way; Ctrl-C ends at once")
            self._lock.wait_for(lambda: not (self._sent or self._early), timeout=LAST_PROOFS)

    def close(self) -> int:
        """Store what LXMF and Reticulum keep; the exit code, 0 when everything that was typed has arrived."""
        self._ending.set()
        with self._lock:
            lost = self._lost + len(self._sent) + len(self._early)
        if lost:
            say(f"  {lost} of your messages did not arrive")
        self._router.exit_handler()
        return 1 if lost else 0


def _identity(directory: Path) -> Any:
    """The same address each time, so that others know us again."""
    file = directory / "identity"
    if file.is_file():
        return RNS.Identity.from_file(str(file))
    identity = RNS.Identity()
    identity.to_file(str(file))
    return identity


def prepare(directory: Path) -> None:
    """Make the directory of a chat what Reticulum needs, and ours alone. Raises `CommandError`."""
    config = directory / "config"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the process ends
        if not config.exists():
            shutil.copyfile(Path(__file__).with_name("config"), config)
        write_shim(directory)
        parse(config.read_bytes())
    except BlockingIOError:
        raise CommandError(f"a chat with {directory} is running already: take another name") from None
    except OSError as error:
        raise CommandError(f"can't use {error.filename or directory}: {error.strerror}") from error
    except CommandError as error:
        raise CommandError(f"{config}: {error}") from error


class _Shown(logging.Handler):
    """What the BLE interface says: it is online, and why not, and who comes and goes."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"- Bluetooth: {record.getMessage()}")


def read_lines(name: str) -> Iterator[str]:
    """What is typed, until Ctrl-D."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from sys.stdin
        return
    session: PromptSession[str] = PromptSession(f"{name}> ")
    with contextlib.suppress(EOFError):
        while True:
            yield session.prompt()


def run(name: str, directory: Path) -> int:
    """Chat until Ctrl-D or Ctrl-C. Raises `CommandError`."""
    prepare(directory)
    say(f"{name}'s configuration and log are in {directory}. Ctrl-D ends.")
    logger, shown = logging.getLogger("rns_ble"), _Shown(logging.INFO)
    logger.addHandler(shown)
    chat = Chat(name, directory)
    looking = threading.Thread(target=chat.look_around, daemon=True)
    looking.start()
    try:
        # Reticulum and LXMF would end the process at once, and leave the terminal as the prompt has set it.
        for number in ENDINGS:
            signal.signal(number, signal.default_int_handler)
        # What is shown while a line is being typed goes above it.
        with patch_stdout():
            for line in read_lines(name):
                if line.strip():
                    chat.send(line.strip())
        chat.wait_for_proofs()
    except KeyboardInterrupt:
        pass
    finally:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        logger.removeHandler(shown)
        code = chat.close()
        looking.join()
    return code


def main() -> None:
    """Run it and end the process."""
    parser = argparse.ArgumentParser("chat.py", description="Chat over Bluetooth LE, as a Reticulum node.")
    parser.add_argument("name", help="what the others see")
    parser.add_argument(
        "--directory", type=Path, help="where it keeps its things (default: ~/.rns-ble-chat/NAME)"
    )
    arguments = parser.parse_args()
    name = printable(arguments.name)
    directory = arguments.directory or HOME / name
    code = 1
    try:
        if not name or (arguments.directory is None and Path(name).name != name):
            raise CommandError(f"{arguments.name!r} is no name for a directory: take another, or --directory")
        code = run(name, directory.absolute())
    except CommandError as error:
        print(f"chat: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass
    sys.exit(code)


if __name__ == "__main__":
    main()
