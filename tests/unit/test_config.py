from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import pytest

from rns_ble.config import KEYS, RETICULUM_KEYS, UNNEEDED, BLEConfig, Key
from rns_ble.drivers.base import BLEError, ConfigurationError
from rns_ble.protocol.gatt import SERVICE_UUID

BY_NAME = {key.name: key for key in KEYS}


def read(**section: object) -> BLEConfig:
    return BLEConfig.from_section(section)


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[int, str]]]:
    """What has been logged: (level, message)."""
    caplog.set_level(logging.DEBUG, "rns_ble.config")
    return lambda: [(record.levelno, record.getMessage()) for record in caplog.records]


# --- the table ---


def test_an_empty_section_gives_the_defaults():
    assert read() == BLEConfig()


def test_every_field_has_a_key_with_a_description_and_its_default_is_allowed():
    assert [key.name for key in KEYS] == [field.name for field in dataclasses.fields(BLEConfig)]
    for key in KEYS:
        assert key.doc.endswith(".")
        assert key.parse(key.default) == key.default


def test_the_defaults_are_those_that_the_reference_implementation_has():
    config = BLEConfig()
    assert config.service_uuid == SERVICE_UUID
    assert (config.enable_central, config.enable_peripheral) == (True, True)
    assert (config.discovery_interval, config.connection_timeout, config.dial_grace) == (5.0, 30.0, 20.0)
    assert (config.max_connections, config.max_discovered_peers, config.outgoing_queue) == (7, 100, 128)
    assert (config.connection_retry_backoff, config.max_connection_failures) == (60.0, 3)
    assert (config.min_rssi, config.power_mode) == (-85, "balanced")
    assert (config.driver, config.adapter, config.transport) == ("bleak", None, None)
    assert config.device_name is None


@pytest.mark.parametrize(
    ("key", "value", "typed"),
    [
        ("name", "Porch", "Porch"),
        ("service_uuid", SERVICE_UUID.upper(), SERVICE_UUID),
        ("service_uuid", SERVICE_UUID.replace("-", ""), SERVICE_UUID),
        ("device_name", "node", "node"),
        ("device_name", " node ", "node"),
        ("device_name", "Zürich1", "Zürich1"),
        ("device_name", "", None),
        ("device_name", "None", None),
        ("enable_central", "yes", True),
        ("enable_central", "False", False),
        ("enable_central", "ON", True),
        ("enable_central", "0", False),
        ("enable_central", True, True),
        ("enable_peripheral", "off", False),
        ("discovery_interval", "2.5", 2.5),
        ("discovery_interval", 10, 10.0),
        ("max_connections", "1", 1),
        ("max_connections", 20, 20),
        ("min_rssi", "-100", -100),
        ("connection_timeout", "10", 10.0),
        ("power_mode", "SAVER", "saver"),
        ("power_mode", "aggressive", "aggressive"),
        ("max_discovered_peers", "5", 5),
        ("connection_retry_backoff", "0", 0.0),
        ("max_connection_failures", "1", 1),
        ("dial_grace", "0", 0.0),
        ("outgoing_queue", "64", 64),
        ("adapter", "hci1", "hci1"),
        ("adapter", "b827eb123456", "B8:27:EB:12:34:56"),
        ("adapter", "b8-27-eb-12-34-56", "B8:27:EB:12:34:56"),
        ("adapter", "", None),
    ],
)
def test_a_good_value_is_typed(key, value, typed):
    result = getattr(read(**{key: value}), key)
    assert result == typed
    assert type(result) is type(typed)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("name", "", "a text"),
        ("service_uuid", "37145b00", "a UUID"),
        ("service_uuid", "", "a UUID"),
        ("service_uuid", 12, "a UUID"),
        ("device_name", "ninebytes", "a text of 1 to 8 bytes of UTF-8, or nothing"),
        ("device_name", "Zürich12", "a text of 1 to 8 bytes of UTF-8, or nothing"),  # 8 characters, 9 bytes
        ("enable_central", "maybe", "yes or no"),
        ("enable_central", "", "yes or no"),
        ("enable_peripheral", "2", "yes or no"),
        ("discovery_interval", "fast", "a number from 0.1 to 3600 s"),
        ("discovery_interval", "0", "a number from 0.1 to 3600 s"),
        ("discovery_interval", "nan", "a number from 0.1 to 3600 s"),
        ("discovery_interval", "inf", "a number from 0.1 to 3600 s"),
        ("discovery_interval", True, "a number from 0.1 to 3600 s"),
        ("max_connections", "0", "an integer from 1 to 3840"),
        ("max_connections", "7.5", "an integer from 1 to 3840"),
        ("max_connections", 7.0, "an integer from 1 to 3840"),
        ("max_connections", True, "an integer from 1 to 3840"),
        ("max_connections", None, "an integer from 1 to 3840"),
        ("min_rssi", "-128", "an integer from -127 to 20 dBm"),
        ("min_rssi", "85", "an integer from -127 to 20 dBm"),
        ("connection_timeout", "0", "a number from 0.1 to 600 s"),
        ("connection_timeout", "601", "a number from 0.1 to 600 s"),
        ("power_mode", "turbo", "aggressive, balanced or saver"),
        ("power_mode", "", "aggressive, balanced or saver"),
        ("max_discovered_peers", "0", "an integer from 1 to 100000"),
        ("connection_retry_backoff", "-1", "a number from 0 to 86400 s"),
        ("max_connection_failures", "0", "an integer from 1 to 1000"),
        ("dial_grace", "-0.5", "a number from 0 to 3600 s"),
        ("outgoing_queue", "0", "an integer from 1 to 65536 packets"),
        ("driver", "bluez", "bleak or bumble"),
        ("adapter", 0, "a text, or nothing"),
        ("transport", 0, "a text, or nothing"),
    ],
)
def test_a_bad_value_is_refused_with_the_key_the_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ConfigurationError) as raised:
        read(**{key: value})
    assert str(raised.value) == f"{key} = {value}; allowed: {allowed}"


def test_a_subsection_in_the_place_of_a_value_is_refused():
    with pytest.raises(ConfigurationError, match=r"max_connections = {'a': '1'}; allowed: an integer"):
        read(max_connections={"a": "1"})


def test_the_error_is_ours_and_a_value_error():
    assert issubclass(ConfigurationError, BLEError)
    assert issubclass(ConfigurationError, ValueError)


def test_a_configuration_made_in_code_is_checked_and_typed_as_well():
    assert BLEConfig(discovery_interval=10).discovery_interval == 10.0
    with pytest.raises(ConfigurationError, match=r"max_connections = 0; allowed: an integer from 1 to 3840"):
        BLEConfig(max_connections=0)


def test_a_configuration_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BLEConfig().min_rssi = -60  # type: ignore[misc]


# --- commas ---


def test_a_value_with_a_comma_is_refused_with_the_remedy():
    with pytest.raises(ConfigurationError) as raised:
        read(device_name=["a", "b"])
    assert str(raised.value) == (
        "device_name = a, b; allowed: a text of 1 to 8 bytes of UTF-8, or nothing; "
        "put a value with a comma in quotes"
    )


def test_a_transport_may_have_a_comma():
    config = read(driver="bumble", transport=["serial:/dev/ttyACM0", "1000000"])
    assert config.transport == "serial:/dev/ttyACM0,1000000"


# --- keys together ---


def test_an_interface_that_may_neither_connect_nor_be_connected_to_is_refused():
    with pytest.raises(ConfigurationError) as raised:
        read(enable_central="no", enable_peripheral="no")
    assert str(raised.value).startswith("enable_central = no, enable_peripheral = no: at least one of them")


def test_bumble_without_a_transport_says_what_one_looks_like():
    with pytest.raises(ConfigurationError) as raised:
        read(driver="bumble")
    assert str(raised.value) == (
        "driver = bumble needs transport, for example usb:0 or serial:/dev/ttyACM0,1000000"
    )


@pytest.mark.parametrize(
    ("transport", "message"),
    [
        ("foo:0", "transport = foo:0: there is no kind of transport 'foo'; there is, for example, usb:0, "),
        ("usb", "transport = usb does not say which one; for example usb:0, "),
        ("tcp-client:7300", "transport = tcp-client:7300: it is tcp-client:HOST:PORT, "),
        ("tcp-client:host:0", "transport = tcp-client:host:0: it is tcp-client:HOST:PORT, "),
    ],
)
def test_a_transport_that_there_can_not_be(transport, message):
    with pytest.raises(ConfigurationError) as raised:
        read(driver="bumble", transport=transport)
    assert str(raised.value).startswith(message)
    assert read(transport=transport).transport == transport  # bleak's it is not


@pytest.mark.parametrize("name", ["HCI1", "hci", "1", "B8:27:EB:12:34"])
def test_an_adapter_that_there_can_not_be(name):
    with pytest.raises(ConfigurationError) as raised:
        read(adapter=name)
    assert str(raised.value) == f"adapter = {name}: a name like hci0, or the adapter's Bluetooth address"
    assert BLEConfig.from_section({"adapter": name}, own_driver=True).adapter == name, "as that one calls it"
    assert read(driver="bumble", transport="usb:0", adapter=name).adapter == name, "it has no effect"


def test_all_that_is_wrong_is_reported_at_once_a_line_each():
    with pytest.raises(ConfigurationError) as raised:
        read(driver="bumble", min_rssi="85", max_connections="many", power_mode="saver")
    assert str(raised.value).splitlines() == [
        "max_connections = many; allowed: an integer from 1 to 3840",
        "min_rssi = 85; allowed: an integer from -127 to 20 dBm",
        "driver = bumble needs transport, for example usb:0 or serial:/dev/ttyACM0,1000000",
    ]


def test_bumble_with_a_transport(messages):
    assert read(driver="Bumble", transport="tcp-client:127.0.0.1:9999").transport == (
        "tcp-client:127.0.0.1:9999"
    )
    assert messages() == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"transport": "usb:0"},
            "transport = usb:0 has no effect: it belongs to driver = bumble, and the driver is bleak",
        ),
        (
            {"driver": "bumble", "transport": "usb:0", "adapter": "hci0"},
            "adapter = hci0 has no effect: it belongs to driver = bleak, and the driver is bumble",
        ),
    ],
)
def test_a_key_of_the_other_driver_is_a_warning(section, message, messages):
    read(**section)
    assert messages() == [(logging.WARNING, message)]


# --- keys that are not ours ---


@pytest.mark.parametrize("key", sorted(UNNEEDED))
def test_a_key_of_the_reference_that_is_not_needed_is_answered_with_the_reason(key, messages):
    assert read(**{key: "600"}) == BLEConfig()
    assert messages() == [(logging.INFO, f"{key} is not needed: {UNNEEDED[key]}")]


def test_the_keys_of_reticulum_are_none_of_ours(messages):
    assert read(**dict.fromkeys(RETICULUM_KEYS - {"name"}, "whatever")) == BLEConfig()
    assert messages() == []
    assert not RETICULUM_KEYS & (set(BY_NAME) - {"name"})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("max_conections", "unknown key max_conections: did you mean max_connections?"),
        ("Min_RSSI", "unknown key Min_RSSI: did you mean min_rssi?"),
        ("pasphrase", "unknown key pasphrase: did you mean passphrase?"),
        ("ifac_netkey", "unknown key ifac_netkey: did you mean passphrase?"),
        ("ifac_netname", "unknown key ifac_netname: did you mean network_name?"),
        ("xyzzy", "unknown key xyzzy, which has no effect"),
    ],
)
def test_an_unknown_key_is_a_warning_that_names_the_nearest(key, message, messages):
    assert read(**{key: "secret"}) == BLEConfig()
    assert messages() == [(logging.WARNING, message)]


def test_nothing_is_warned_about_when_the_section_is_refused(messages):
    with pytest.raises(ConfigurationError):
        read(xyzzy="1", max_connections="none")
    assert messages() == []


# --- what the documentation is made from ---


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        (BY_NAME["min_rssi"], "an integer from -127 to 20 dBm"),
        (BY_NAME["driver"], "bleak or bumble"),
        (BY_NAME["transport"], "a text, or nothing"),
        (Key("k", "number", 1.0, "D.", unit="s", minimum=0.5, maximum=2), "a number from 0.5 to 2 s"),
    ],
)
def test_a_key_says_what_it_allows(key, allowed):
    assert key.allowed == allowed
