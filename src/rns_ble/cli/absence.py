"""Why no BLE interface answers for a configuration directory: one line that says what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from rns_ble.cli import reticulum_config
from rns_ble.cli.errors import CommandError
from rns_ble.cli.running import as_user, peer_of, user_name

DEFAULT_INSTANCE: Final = "default"
"""What Reticulum calls a shared instance that has no name."""


def why_none(directory: Path) -> str:
    """One line. Imports RNS."""
    config = directory / "config"
    try:
        configuration = reticulum_config.parse(config.read_bytes())
        sections = reticulum_config.ble_sections(configuration)
    except FileNotFoundError:
        return f"there is no {config}: start rnsd once, or name its directory with --config"
    except PermissionError:
        return f"{config} can't be read: run this as its owner, or name another directory with --config"
    except CommandError as error:
        return f"{config}: {error}"
    options = configuration.get("reticulum", {})
    name = str(options.get("instance_name", DEFAULT_INSTANCE))
    holder = shared_instance(name)
    enabled = any(map(reticulum_config.is_enabled, sections.values()))
    if holder is not None:
        return _beside(holder, name, directory, enabled=enabled)
    if not enabled:
        return f"{config} has no BLE interface that is enabled: rns-ble install --enable"
    return (
        f"no Reticulum runs with {directory}: start rnsd, "
        "or restart it, if this package was upgraded since it was started"
    )


def _beside(holder: tuple[int, int], name: str, directory: Path, *, enabled: bool) -> str:
    pid, uid = holder
    command = command_line(pid)
    if uid != os.getuid():
        return (
            f"Reticulum's shared instance {name!r} is {user_name(uid)}'s (process {pid}, {command}): "
            f"{as_user(uid, 'status')}"
        )
    if not enabled:
        return (
            f"Reticulum runs (process {pid}, {command}), but {directory / 'config'} has no BLE interface "
            "that is enabled: rns-ble install --enable, then restart it"
        )
    return (
        f"Reticulum's shared instance {name!r} is process {pid} ({command}), and it has no BLE interface of "
        f"{directory}: does it use another configuration, or say in its log why the interface failed? "
        "Whoever joins it opens no interface"
    )


def shared_instance(name: str) -> tuple[int, int] | None:
    """Who has Reticulum's shared instance of that name: (pid, uid). None: nobody, or one by TCP."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(f"\0rns/{name}")
        except OSError:
            return None
        return peer_of(connection)


def command_line(pid: int) -> str:
    """How that process was started."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "?"
    shown = " ".join(filter(None, words))
    return "".join(letter if letter.isprintable() else "?" for letter in shown[:100])
