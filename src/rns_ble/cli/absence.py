"""Why no BLE interface answers for a configuration directory: one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

from rns_ble.cli import processes, reticulum_config
from rns_ble.cli.errors import CommandError
from rns_ble.cli.running import as_user, user_name
from rns_ble.cli.shared_instance import Holder, SharedInstance
from rns_ble.cli.tables import plain


def why_none(directory: Path) -> str:
    """One line. Imports RNS."""
    config = directory / "config"
    try:
        configuration = reticulum_config.parse(config.read_bytes())
        own = reticulum_config.own_sections(configuration, directory)
        sections = reticulum_config.ble_sections(configuration) | own
    except FileNotFoundError:
        return f"there is no {config}: rns-ble install --enable, or name another directory with --config"
    except PermissionError:
        return f"{config} can't be read: run this as its owner, or name another directory with --config"
    except OSError as error:
        return f"{config} can't be read: {error.strerror}"
    except CommandError as error:
        return f"{config}: {error}"
    holder = SharedInstance.of(configuration.get("reticulum")).holder()
    enabled = any(map(reticulum_config.is_enabled, sections.values()))
    if holder is not None:
        return _beside(holder, directory, enabled=enabled)
    if not enabled:
        return f"{config} has no BLE interface that is enabled: rns-ble install --enable"
    return (
        f"no Reticulum runs with {directory}: start rnsd, "
        "or restart it, if this package was upgraded since it was started"
    )


def _beside(holder: Holder, directory: Path, *, enabled: bool) -> str:
    process = processes.look_at(holder.pid) if holder.pid is not None else None
    program = plain(f"{process.name} (process {process.pid})") if process else "a program"
    if holder.uid != os.getuid():
        return (
            f"{program} of {user_name(holder.uid)}'s has opened Reticulum's interfaces; ask as that user: "
            f"{as_user(holder.uid, 'status')}"
        )
    if not enabled:
        return (
            f"{program} runs, but {directory / 'config'} has no BLE interface that is enabled: "
            f"rns-ble install --enable, then restart {process.name if process else 'it'}"
        )
    return (
        f"{program} runs without a BLE interface of {directory}: it was started before that was configured, "
        "the interface failed, or it uses another configuration; rns-ble doctor tells which"
    )
