"""`rns-ble install`: the shim that Reticulum loads, and the section that makes it load it.

Reticulum has no plug-ins. An interface that it doesn't bring itself is a file `<type>.py` in the directory
`interfaces` beside its configuration. Ours only imports the package, so an upgrade of the package does not
need another `install`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rns_ble.cli import reticulum_config, rnsd_python
from rns_ble.cli.arguments import add_config
from rns_ble.cli.errors import CommandError, UsageError

SHIM: Final = (
    "# Written by `rns-ble install`. Reticulum loads its BLE interface from the Python package rns_ble.\n"
    "from rns_ble.interface import BLEInterface as interface_class\n"
)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What was done; `--json` prints exactly this."""

    config_directory: str
    config_exists: bool
    shim: str
    shim_written: bool
    shim_backup: str | None = None
    block: str
    enable_command: str
    """What adds that section to the configuration."""
    found: bool = False
    """The configuration had a BLE interface before."""
    kept: str = ""
    """The names of those interfaces, as `[[BLE Interface]]`; no section was added beside them."""
    enabled: bool = False
    """It has an enabled one now."""
    config_changed: bool = False
    config_backup: str | None = None
    warnings: list[str] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        "--enable",
        action="store_true",
        help="add the section to the configuration; a copy of the old one is kept. "
        "Without a configuration, write a first one",
    )
    parser.add_argument(
        "--driver",
        help="write `driver = …` into the section: bleak (the system's adapter, through BlueZ; the default) "
        "or bumble (a dongle for Reticulum alone, or the virtual radio)",
    )
    parser.add_argument("--adapter", help="write `adapter = …`, for example hci1 (driver bleak)")
    parser.add_argument("--transport", help="write `transport = …`, for example usb:0 (driver bumble)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Write the shim, print or add the section."""
    directory = reticulum_config.find_directory(arguments.config)
    keys = {
        key: getattr(arguments, key) for key in ("driver", "adapter", "transport") if getattr(arguments, key)
    }
    _check(keys)
    try:
        outcome = install(directory, keys, enable=arguments.enable, explicit=arguments.config)
    except OSError as error:
        raise CommandError(
            f"can't write {error.filename or directory}: {error.strerror}. "
            "Run it as the user who owns that directory, or name another with --config"
        ) from error
    if arguments.json:
        print(json.dumps(asdict(outcome)))
    else:
        _print(outcome)
    return 0


def install(
    directory: Path, keys: Mapping[str, str], *, enable: bool, explicit: str | None = None
) -> Outcome:
    """Do it. Running it again changes nothing. Raises `CommandError` and `OSError`.

    `explicit`: how the directory was named, for the command that is proposed.
    """
    config = directory / "config"
    data = config.read_bytes() if config.is_file() else None
    try:
        configuration = reticulum_config.parse(data) if data is not None else {}
        present = reticulum_config.ble_sections(configuration)
        name = reticulum_config.free_name(configuration)
        # Before anything is written: it may turn out that there is no safe place for the section.
        if data is not None and enable and not present:
            changed = reticulum_config.with_block(data, name, keys)
        else:
            changed = reticulum_config.new_configuration(keys)
    except CommandError as error:
        raise CommandError(f"{config}: {error}") from error
    shim, written, replaced = write_shim(directory)
    outcome = Outcome(
        config_directory=str(directory),
        config_exists=data is not None or enable,
        shim=str(shim),
        shim_written=written,
        shim_backup=str(replaced) if replaced else None,
        block=reticulum_config.block(keys=keys),
        enable_command=_enable_command(explicit, keys),
        found=bool(present),
        kept=", ".join(f"[[{name}]]" for name in present),
    )
    if present:
        _compare(present, keys, outcome)
    elif enable:
        if data is not None:
            outcome.config_backup = str(reticulum_config.back_up(config))
        reticulum_config.replace_file(config, changed)
        outcome.config_changed = outcome.enabled = True
    section = next(iter(present.values()), keys)
    if (warning := rnsd_python.warning(section.get("driver", "bleak").lower())) is not None:
        outcome.warnings.append(warning)
    return outcome


def write_shim(directory: Path) -> tuple[Path, bool, Path | None]:
    """Write `interfaces/BLEInterface.py` below a configuration directory.

    Returns its path, whether it had to be written, and where a different file of that name was moved to.
    """
    path = directory / "interfaces" / f"{reticulum_config.INTERFACE_TYPE}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    if path.exists():
        present = path.read_bytes()
        if present == SHIM.encode():
            return path, False, None
        if b"rns_ble.interface" not in present:
            # Another implementation's: ble-reticulum installs a file of the same name.
            backup = reticulum_config.back_up(path)
    reticulum_config.replace_file(path, SHIM.encode())
    return path, True, backup


def _compare(present: Mapping[str, Mapping[str, str]], keys: Mapping[str, str], outcome: Outcome) -> None:
    """Say what an interface that was there already has otherwise than was asked for."""
    outcome.enabled = any(map(reticulum_config.is_enabled, present.values()))
    name, section = next(iter(present.items()))
    if not outcome.enabled:
        outcome.warnings.append(
            f"[[{name}]] is in the configuration but not enabled: set `enabled = yes` there"
        )
    outcome.warnings += [
        f"[[{name}]] has {key} = {section.get(key, '(the default)')}, not {wanted}; it was left alone"
        for key, wanted in keys.items()
        if section.get(key) != wanted
    ]


def _check(keys: Mapping[str, str]) -> None:
    from rns_ble.config import BLEConfig  # noqa: PLC0415  (brings in Trio)
    from rns_ble.drivers.base import ConfigurationError  # noqa: PLC0415

    try:
        BLEConfig.from_section({"name": reticulum_config.SECTION_NAME, **keys})
    except ConfigurationError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error


def _enable_command(explicit: str | None, keys: Mapping[str, str]) -> str:
    """The command that adds the section to the configuration."""
    options = {"config": explicit, **keys}
    words = [word for key, value in options.items() if value for word in (f"--{key}", value)]
    return shlex.join(["rns-ble", "install", "--enable", *words])


def _print(outcome: Outcome) -> None:
    config = Path(outcome.config_directory) / "config"
    if outcome.shim_backup:
        print(f"kept   {outcome.shim_backup}, which was another implementation's")
    print(f"{'wrote' if outcome.shim_written else 'found'}  {outcome.shim}")
    if outcome.config_changed:
        if outcome.config_backup:
            print(f"kept   {outcome.config_backup}")
        print(f"wrote  {config}, now with this section:\n\n{outcome.block}")
        if not outcome.warnings:
            # With a first configuration nothing runs yet.
            start = "Start rnsd, or restart it where it runs," if outcome.config_backup else "Start rnsd"
            print(f"{start} to bring the interface up.")
    elif outcome.found:
        print(f"found  {config}, which has {outcome.kept}: left as it is, to be changed there")
    elif not outcome.config_exists:
        print(
            f"\nThere is no {config} yet. Start rnsd once and it writes one, or let\n"
            f"`{outcome.enable_command}`\n"
            f"write one with this section, which belongs below [interfaces]:\n\n{outcome.block}"
        )
    else:
        print(
            f"\nPaste this below [interfaces] in {config}, or let\n"
            f"`{outcome.enable_command}`\ndo it:\n\n{outcome.block}"
        )
        if not outcome.warnings:
            print("Then start rnsd, or restart it where it runs.")
    for warning in outcome.warnings:
        print(f"rns-ble install: warning: {warning}", file=sys.stderr)
