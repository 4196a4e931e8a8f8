"""What of the interface can be seen without a running Reticulum; the rest is in tests/system."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import RNS
from RNS.Interfaces.AutoInterface import AutoInterface
from RNS.Interfaces.BackboneInterface import BackboneInterface
from RNS.Interfaces.TCPInterface import TCPServerInterface

import rns_ble
from rns_ble import interface
from rns_ble.config import RETICULUM_KEYS, BLEConfig
from rns_ble.drivers.base import ConfigurationError
from rns_ble.host import Host, current_interface
from rns_ble.reticulum_log import bridge_logging

SOURCES = Path(rns_ble.__file__).parents[1]


# --- imports ---


def test_importing_the_interface_brings_in_neither_trio_nor_bluetooth_and_changes_no_asyncio():
    code = (
        "import sys, asyncio; policy = type(asyncio.get_event_loop_policy())\n"
        "import rns_ble.interface\n"
        "assert not {'bleak', 'bumble', 'trio', 'trio_asyncio', 'dbus_next'} & set(sys.modules)\n"
        "assert type(asyncio.get_event_loop_policy()) is policy\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={"PYTHONPATH": str(SOURCES)}, check=True, timeout=60
    )


@pytest.mark.parametrize("driver", ["bluez import BleakDriver", "hci import BumbleDriver"])
def test_the_libraries_can_still_be_loaded_when_the_interpreter_has_begun_to_end(driver):
    if driver.startswith("bluez") and not sys.platform.startswith("linux"):
        pytest.skip("BlueZ is Linux's")
    code = (
        "import atexit, threading, time, rns_ble.interface\n"
        "def load():\n"
        "    threading.main_thread().join(); time.sleep(0.1)\n"
        f"    import rns_ble.trio_thread; from rns_ble.drivers.{driver}\n"
        "    print('loaded')\n"
        "thread = threading.Thread(target=load, daemon=True); thread.start()\n"
        "atexit.register(thread.join)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    assert ended.stdout == b"loaded\n"


# --- what we lean on in Reticulum: if one of these fails, a new RNS wants a look ---


@pytest.mark.parametrize(
    "spawning",
    [AutoInterface.add_peer, TCPServerInterface.incoming_connection, BackboneInterface.incoming_connection],
)
def test_a_peer_inherits_whatever_reticulums_own_spawned_interfaces_do(spawning):
    copied = set(re.findall(r"spawned_interface\.(\w+)\s*=\s*self\.\1\b", inspect.getsource(spawning)))
    assert len(copied) > 20
    assert copied <= set(interface.INHERITED)


@pytest.mark.skipif(version("rns").startswith("1.4."), reason="looks into RNS 1.5's own code")
def test_every_key_that_reticulum_reads_from_any_section_is_known():
    source = inspect.getsource(RNS.Reticulum._synthesize_interface)
    read = set(re.findall(r'"(\w+)" in c\b', source))
    read |= set(re.findall(r'interface_config\["(\w+)"\]', source))
    of_other_types = {"port", "remote", "listen_on", "target_host"}
    inside_i2p = {"storagepath", "ifac_netname", "ifac_netkey"}
    assert len(read) > 40
    assert read - of_other_types - inside_i2p <= RETICULUM_KEYS
    assert RETICULUM_KEYS - read == {"type"}


def test_reticulum_holds_an_identity_back_until_it_is_ready(monkeypatch):
    monkeypatch.setattr(RNS.Transport, "identity", None)
    monkeypatch.setattr(RNS.Transport, "ready", True)
    assert interface._transport_identity() is None
    monkeypatch.setattr(RNS.Transport, "identity", SimpleNamespace(hash=bytes(16)))
    assert interface._transport_identity() == bytes(16)
    monkeypatch.setattr(RNS.Transport, "ready", False)
    assert interface._transport_identity() is None


def test_reticulums_transport_says_when_it_is_ready():
    assert RNS.Transport.ready is False
    assert RNS.Transport.identity is None


# --- the driver ---


def make(monkeypatch: pytest.MonkeyPatch, module: str, **keys: object) -> object:
    monkeypatch.setattr(interface, "DRIVER_CLASSES", {"bleak": (module, "Driver", "adapter"), "bumble": ()})
    return interface.make_driver(BLEConfig(**keys))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module to write a driver into."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "some_driver.py"
    sys.modules.pop("some_driver", None)


def test_the_driver_is_given_its_key(module, monkeypatch):
    module.write_text("class Driver:\n    def __init__(self, *, adapter): self.adapter = adapter\n")
    assert make(monkeypatch, "some_driver", adapter="hci1").adapter == "hci1"


def test_a_driver_whose_library_is_missing(module, monkeypatch):
    module.write_text("import no_such_library\n")
    with pytest.raises(ConfigurationError) as raised:
        make(monkeypatch, "some_driver")
    assert str(raised.value) == (
        f"driver = bleak: its Python package no_such_library is missing: install it for {sys.executable}"
    )
    assert raised.value.__suppress_context__, "Reticulum prints the traceback, and the import's says no more"


def missing(module: Path, monkeypatch: pytest.MonkeyPatch, *, looked_for: bool) -> str:
    """Let the driver lack a library. What an interface says of it."""
    module.write_text("import no_such_library\n")
    monkeypatch.setattr(interface, "DRIVER_CLASSES", {"bleak": ("some_driver", "Driver", "adapter")})
    monkeypatch.setattr(interface, "LIBRARIES", {"bleak": ("no_such_library",) if looked_for else ()})
    return f"driver = bleak: its Python package no_such_library is missing: install it for {sys.executable}"


def test_a_library_that_is_missing_is_said_in_the_constructor(module, monkeypatch, reticulum_log):
    why = missing(module, monkeypatch, looked_for=True)
    with pytest.raises(ConfigurationError) as raised:
        interface.BLEInterface(RNS.Transport, {"name": "A"})
    assert str(raised.value) == why
    errors = [line for line, level in reticulum_log if level == RNS.LOG_ERROR]
    assert errors == [f"BLEInterface[A]: can't be used: {why}"]


def test_what_only_loading_tells_is_said_when_it_is_loaded(module, monkeypatch, caplog):
    why = missing(module, monkeypatch, looked_for=False)
    made = object.__new__(interface.BLEInterface)  # its constructor needs a Reticulum that runs
    made.config, made._driver, made._threaded = BLEConfig(), None, None
    made._work(Host("A", made._work, made))
    assert made.driver is None
    assert made._offline_reason == why
    assert f"can't be used: {why}" in caplog.messages


def test_both_drivers_of_the_configuration_have_a_class_and_their_libraries():
    assert set(interface.DRIVER_CLASSES) == set(interface.LIBRARIES) == {"bleak", "bumble"}
    for _, _, key in interface.DRIVER_CLASSES.values():
        assert hasattr(BLEConfig(), key)


# --- the log ---


@pytest.fixture
def reticulum_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """What Reticulum is given to log: (message, level). Afterwards our logger is as it was before.

    The bridge is built by the test itself: pytest hands a logger that does not propagate handlers of its own.
    """
    logger = logging.getLogger("rns_ble")
    before = logger.handlers[:], logger.propagate, logger.level
    lines: list[tuple[str, int]] = []
    monkeypatch.setattr(RNS, "log", lambda message, level: lines.append((message, level)))
    monkeypatch.setattr(RNS, "loglevel", RNS.LOG_DEBUG)
    yield lines
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


def test_levels_go_to_reticulums_and_info_is_its_notice(reticulum_log):
    bridge_logging()
    log = logging.getLogger("rns_ble.anything")
    for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, 5):
        log.log(level, "level %d", level)
    assert reticulum_log == [
        ("rns_ble: level 50", RNS.LOG_CRITICAL),
        ("rns_ble: level 40", RNS.LOG_ERROR),
        ("rns_ble: level 30", RNS.LOG_WARNING),
        ("rns_ble: level 20", RNS.LOG_NOTICE),
        ("rns_ble: level 10", RNS.LOG_DEBUG),
    ]


def test_what_reticulum_would_not_show_is_not_even_formatted(reticulum_log, monkeypatch):
    bridge_logging()

    class Expensive:
        def __str__(self):
            raise AssertionError("formatted")

    monkeypatch.setattr(RNS, "loglevel", RNS.LOG_WARNING)
    logging.getLogger("rns_ble.mesh").info("%s", Expensive())
    assert reticulum_log == []
    monkeypatch.setattr(RNS, "loglevel", RNS.LOG_NOTICE)
    logging.getLogger("rns_ble.mesh").info("shown at once")
    assert reticulum_log == [("rns_ble: shown at once", RNS.LOG_NOTICE)]


def test_a_line_is_headed_by_its_interface(reticulum_log):
    bridge_logging()
    token = current_interface.set("BLEInterface[Porch]")
    logging.getLogger("rns_ble.mesh").warning("careful")
    current_interface.reset(token)
    assert reticulum_log == [("BLEInterface[Porch]: careful", RNS.LOG_WARNING)]


def test_a_traceback_is_logged_whole(reticulum_log):
    bridge_logging()
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("rns_ble.mesh").exception("broken")
    [(message, level)] = reticulum_log
    assert message.startswith("rns_ble: broken\nTraceback (most recent call last):\n")
    assert message.endswith("RuntimeError: a bug")
    assert level == RNS.LOG_ERROR


def test_the_bridge_is_built_once_and_goes_nowhere_else(reticulum_log, caplog):
    for _ in range(3):
        bridge_logging()
    logging.getLogger("rns_ble.mesh").error("once")
    assert len(reticulum_log) == 1
    assert caplog.records == []


def test_a_log_that_fails_does_not_fail_the_mesh(reticulum_log, monkeypatch, capsys):
    bridge_logging()

    def fail(message, level):
        raise OSError("disk full")

    monkeypatch.setattr(RNS, "log", fail)
    logging.getLogger("rns_ble.mesh").error("lost")
    assert "disk full" in capsys.readouterr().err


# --- a driver of the callback contract ---


def test_the_delay_that_such_drivers_are_told():
    assert interface._service_discovery_delay({}) == 1.5
    assert interface._service_discovery_delay({"service_discovery_delay": "0.25"}) == 0.25
    with pytest.raises(ConfigurationError, match="service_discovery_delay = soon; allowed: a number"):
        interface._service_discovery_delay({"service_discovery_delay": "soon"})
