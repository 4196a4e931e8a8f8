"""What is examined: one configuration of Reticulum's on this machine. Everything is looked up once, when a
check first wants it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rns_ble.cli import processes, reticulum_config, rnsd_python
from rns_ble.cli.doctor.finding import Command, Mend
from rns_ble.cli.errors import CommandError
from rns_ble.cli.running import Running, ask_all, user_name
from rns_ble.cli.shared_instance import Holder, SharedInstance

if TYPE_CHECKING:
    from rns_ble.cli.processes import Process
    from rns_ble.cli.rnsd_python import Installation
    from rns_ble.config import BLEConfig
    from rns_ble.drivers.base import BLEError
    from rns_ble.drivers.bluez.examination import AdapterFacts, BlueZFacts


@dataclass(frozen=True, slots=True)
class Program:
    """The program that brings the interfaces up, or would."""

    name: str
    interpreter: str
    python_path: str | None = None
    user: int | None = None
    """Whose process it is; None where it does not run."""


class Case:
    """Made anew for each examination."""

    def __init__(self, explicit: str | None = None, root: Path = Path("/")) -> None:
        """`explicit`: the configuration directory, where one was named. `root`: where the system's files are
        looked for.
        """
        self.explicit = explicit
        self.directory = reticulum_config.find_directory(explicit)
        self.root = root

    # --- Reticulum's configuration ---

    @property
    def config(self) -> Path:
        """Reticulum's configuration file."""
        return self.directory / "config"

    @cached_property
    def data(self) -> bytes | OSError:
        """What is in that file, or why it can't be read."""
        try:
            return self.config.read_bytes()
        except OSError as error:
            return error

    @cached_property
    def configuration(self) -> dict[str, Any] | CommandError:
        """The same as Reticulum reads it, or why Reticulum can't; empty without a file."""
        if isinstance(self.data, OSError):
            return {}
        try:
            parsed = reticulum_config.parse(self.data)
            reticulum_config.ble_sections(parsed)
        except CommandError as error:
            return error
        return parsed

    @property
    def sections(self) -> dict[str, Mapping[str, str]]:
        """The BLE interfaces of the configuration; none where that can't be read."""
        if isinstance(self.configuration, CommandError):
            return {}
        return reticulum_config.ble_sections(self.configuration)

    @cached_property
    def own_sections(self) -> dict[str, Mapping[str, str]]:
        """The interfaces with a driver of one's own, which can't be looked into: what their section says, or
        what is seen of one that runs without any.
        """
        from rns_ble.config import DRIVERS  # noqa: PLC0415  (brings in Trio)

        if isinstance(self.configuration, CommandError):
            return {}
        found = reticulum_config.own_sections(self.configuration, self.directory)
        written = reticulum_config.sections(self.configuration)
        for interface in self.running.interfaces:
            name, driver = interface["name"], interface["driver"]
            # One of a driver of ours that is no section of ours has been called otherwise meanwhile.
            if name not in self.sections and driver not in DRIVERS:
                found.setdefault(name, written.get(name, {"type": driver, "enabled": "yes"}))
        return found

    @property
    def needs_shim(self) -> bool:
        """Whether an interface of our type is enabled, or has to be, since there is no other."""
        return any(map(reticulum_config.is_enabled, self.sections.values())) or not self.own_sections

    @cached_property
    def interfaces(self) -> dict[str, BLEConfig]:
        """Those that are enabled and valid."""
        from rns_ble.config import KEYS, BLEConfig  # noqa: PLC0415  (brings in Trio)
        from rns_ble.drivers.base import ConfigurationError  # noqa: PLC0415

        known = {key.name for key in KEYS}
        valid = {}
        for name, section in self.sections.items():
            values: dict[str, Any] = {key: value for key, value in section.items() if key in known}
            if reticulum_config.is_enabled(section):
                try:
                    valid[name] = BLEConfig(**values)
                except ConfigurationError:
                    continue
        return valid

    def interfaces_with(self, driver: str) -> dict[str, BLEConfig]:
        """Those with this driver. Without any interface yet, what `rns-ble install` would write."""
        from rns_ble.config import BLEConfig  # noqa: PLC0415

        first = {reticulum_config.SECTION_NAME: BLEConfig()} if self.needs_shim else {}
        all_ = self.interfaces or first
        return {name: config for name, config in all_.items() if config.driver == driver}

    # --- who runs Reticulum ---

    @property
    def instance(self) -> SharedInstance:
        """How programs with this configuration find each other."""
        configuration = self.configuration
        found = {} if isinstance(configuration, CommandError) else configuration.get("reticulum")
        return SharedInstance.of(found)

    @cached_property
    def holder(self) -> Holder | None:
        """Who has the shared instance: the first program that has started Reticulum."""
        return self.instance.holder()

    @cached_property
    def owner(self) -> Process | None:
        """The process that has it, if this user may see which. Where none is shared, one that has a BLE
        interface up.
        """
        if not self.instance.shared:
            return next((processes.look_at(found["pid"]) for found in self.running.interfaces), None)
        return processes.look_at(self.holder.pid) if self.holder and self.holder.pid else None

    @cached_property
    def running(self) -> Running:
        """The interfaces that run with this configuration."""
        return ask_all(self.directory)

    @cached_property
    def program(self) -> Program | None:
        """The one that runs; else the rnsd that systemd or a shell would start, or the one beside this
        Python.
        """
        if self.owner is not None:
            if self.owner.interpreter is None:
                return None
            return Program(str(self.owner), self.owner.interpreter, self.owner.python_path, self.owner.uid)
        found = rnsd_python.in_service(self.root) or rnsd_python.on_path() or rnsd_python.beside()
        return Program(*found) if found else None

    @cached_property
    def installation(self) -> Installation | None:
        """What that program's Python has; None when this user can't find out."""
        if self.program is None or not os.access(self.program.interpreter, os.X_OK):
            return None
        return rnsd_python.look_into(self.program.interpreter, self.program.python_path, self.program.user)

    def in_its_environment(self, command: str) -> Mend:
        """A command that changes the environment of that program: for its user, and nobody else to run."""
        user = None if self.program is None else self.program.user
        if user is None or user == os.geteuid():
            return Command(tuple(shlex.split(command)))
        return f"sudo {f'-u {shlex.quote(user_name(user))} ' if user else ''}{command}"

    # --- BlueZ ---

    @cached_property
    def bluez(self) -> BlueZFacts | BLEError:
        """What BlueZ says, or why nothing."""
        import trio  # noqa: PLC0415

        from rns_ble.cli.until_signal import until_signal  # noqa: PLC0415
        from rns_ble.drivers.base import BLEError  # noqa: PLC0415
        from rns_ble.drivers.bluez.examination import examine  # noqa: PLC0415

        try:
            return trio.run(until_signal, examine)
        except BLEError as error:
            return error

    @property
    def adapters(self) -> tuple[AdapterFacts, ...]:
        """BlueZ's adapters; none where it can't be asked."""
        from rns_ble.drivers.base import BLEError  # noqa: PLC0415

        return () if isinstance(self.bluez, BLEError) else self.bluez.adapters

    def adapter(self, config: BLEConfig) -> AdapterFacts | None:
        """The adapter that an interface would take."""
        for adapter in self.adapters:
            if config.adapter in (None, adapter.name, adapter.address):
                return adapter
        return None

    @property
    def bluez_version(self) -> tuple[int, int] | None:
        """None where BlueZ does not tell: without an adapter, or with another `DeviceID` in main.conf."""
        return next((adapter.version for adapter in self.adapters), None)
