"""The interface in a real Reticulum, each test in processes of its own; only the radio is missing."""

from __future__ import annotations

import json
import signal
from importlib.metadata import version

import pytest
import RNS

from rns_ble.drivers.base import ConfigurationError
from tests.system.neighbour import IDENTITY
from tests.system.reticulum import Reticulum

since_rns_1_5 = pytest.mark.skipif(
    version("rns").startswith("1.4."), reason="reads what RNS counts, or takes a call that it has, since 1.5"
)

PEER = f"BLEPeerInterface[Porch/{IDENTITY.hex()}]"


# --- what Reticulum sees ---


def test_the_constructor_starts_nothing(reticulum: Reticulum):
    reticulum.configure({})
    assert reticulum.scenario("constructor_starts_nothing") == {
        "threads": [],
        "online": False,
        "snapshot": None,
        "the driver given": True,
        "threads when detached before": 0,
    }


def test_a_peer_takes_over_all_of_its_parents_options(reticulum: Reticulum):
    reticulum.configure(
        {
            "Porch": {
                "mode": "gateway",
                "bitrate": "125000",
                "announce_cap": "5",
                "ic_burst_hold": "33",
                "announce_rate_target": "3600",
            }
        }
    )
    result = reticulum.scenario("one_peer")
    assert result["parent"] == "BLEInterface[Porch]"
    assert result["peer"] == PEER
    assert result["spawned"] == [PEER]
    assert result["online"] == [True, True]
    assert result["differs"] == []
    assert (result["mode"], result["bitrate"]) == (RNS.Interfaces.Interface.Interface.MODE_GATEWAY, 125_000)
    assert (result["announce_cap"], result["ic_burst_hold"]) == (0.05, 33.0)
    assert result["snapshot"] == IDENTITY.hex()
    assert result["found by name"]["Porch"] == "BLEInterface[Porch]", "and not one of its peers"


@since_rns_1_5
def test_what_rnstatus_is_told(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    statistics = reticulum.scenario("one_peer")["statistics"]
    parent, peer = statistics["parent"], statistics["peer"]
    assert (parent["clients"], parent["peers"], parent["status"]) == (1, 1, True)
    assert (parent["mtu"], parent["bitrate"], parent["short_name"]) == (500, 700_000, "Porch")
    assert (parent["txdrp"], parent["txdrb"], parent["txstalled"], parent["txbuffered"]) == (0, 0, False, 0)
    assert (peer["mtu"], peer["bitrate"], peer["status"], peer["clients"]) == (500, 700_000, True, None)
    assert peer["parent_interface_name"] == "BLEInterface[Porch]"
    assert peer["parent_interface_hash"] == parent["hash"]


@since_rns_1_5
def test_packets_go_both_ways_once_and_are_counted(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    result = reticulum.scenario("traffic")
    assert result["copies"] == 1
    assert result["path over"] == PEER
    assert len(set(result["received"])) == 1, "peer, parent, truth"
    assert len(set(result["sent"][:2])) == 1
    assert result["announces"][0] == result["announces"][1], "none but the peer's count on the parent"
    assert result["violations"] == 0


def test_a_peer_that_goes_takes_its_paths_along_and_comes_back_under_its_name(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    result = reticulum.scenario("peer_goes_and_comes_back")
    assert result["gone"] == [False, True, False, False]
    assert result["queued"] == [0, 0]
    assert result["parent online"] is True
    assert result["drops"] == [1, 1, 4]
    assert result["the same again"] == [True, True, False]


@since_rns_1_5
def test_a_full_queue_is_counted_where_rnstatus_looks(reticulum: Reticulum):
    reticulum.configure({"Porch": {"outgoing_queue": "64"}})
    result = reticulum.scenario("full_queue")
    assert result == {
        "accepted": 64,
        "waiting": 9 * 400,
        "dropped": 136,
        "bytes": 136 * 400,
        "parent": [136, 136 * 400, True],
        "statistics": [136, 136 * 400] * 2,
    }


@since_rns_1_5
def test_a_passphrase_is_enforced_on_every_peer(reticulum: Reticulum):
    reticulum.configure({"Porch": {"passphrase": "open sesame", "network_name": "forty"}})
    result = reticulum.scenario("passphrase")
    assert result["path without code"] is False
    assert set(result["sent with code"]) == {0x80}
    assert result["longest"] == 16
    assert result["violations"] == 1
    assert result["same code"] is True


@since_rns_1_5
def test_a_full_packet_with_an_access_code_passes(reticulum: Reticulum):
    reticulum.configure({"Porch": {"passphrase": "open sesame", "ifac_size": "512"}})
    result = reticulum.scenario("full_size_packet_with_passphrase")
    assert result == {"longer": 64, "received": 564, "violations": 0}


def test_two_interfaces_live_and_end_apart(reticulum: Reticulum):
    reticulum.configure({"Porch": {}, "Attic": {}})
    result = reticulum.scenario("two_interfaces")
    assert result["parents"] == ["BLEInterface[Attic]", "BLEInterface[Porch]"]
    assert len(result["left"]) == 1
    ended = next(name for name, online in result["online"].items() if not online)
    assert ended[len("BLEInterface[") : -1] not in result["left"][0]
    output = reticulum.processes[-1].lines
    for name in ("Porch", "Attic"):
        assert f"[Notice]   BLEInterface[{name}]: online" in output
        assert f"[Notice]   BLEInterface[{name}]: peer <{IDENTITY.hex()}> joined" in output


# --- the end, and what goes wrong ---


@since_rns_1_5
def test_detach_leaves_no_thread_no_file_and_no_peer_and_may_be_repeated(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    for result in reticulum.scenario("detach"):
        assert result == {
            "threads while up": 2,
            "threads": [],
            "new files": [],
            "online": False,
            "peers": 0,
            "clients": 0,
        }


def test_packets_sent_by_many_threads_while_it_detaches_meet_no_error(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    result = reticulum.scenario("packets_during_detach")
    assert result == {"errors": [], "sent more": 0, "peers": 0, "threads": 0}


def test_a_crash_of_the_radio_thread_takes_everybody_offline(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    assert reticulum.scenario("crash", fails=True) == {"online": [False, False], "snapshot": None}
    process = reticulum.processes[-1]
    assert any(
        line.startswith("[Error]    BLEInterface[Porch]: offline for good because of a bug")
        for line in process.lines
    )
    assert "RuntimeError: a bug of ours" in process.output


def test_a_driver_that_fails_is_started_again(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    assert reticulum.scenario("driver_fails_and_recovers") == {"online": [True, True], "peer": PEER}
    assert (
        "[Error]    BLEInterface[Porch]: offline: the adapter was unplugged: plug it in again "
        "(trying again by itself)" in reticulum.processes[-1].lines
    )


def test_an_error_in_reticulums_inbound_is_logged_and_delivery_goes_on(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    assert reticulum.scenario("inbound_fails", fails=True) == ["one packet", "and another"]
    process = reticulum.processes[-1]
    assert "a bug in BLEInterface.packet_received; going on" in process.output
    assert "RuntimeError: a bug of Reticulum" in process.output


def test_the_end_of_the_program_releases_the_radio(reticulum: Reticulum):
    reticulum.configure({"Porch": {}})
    assert reticulum.scenario("leave_by_the_end_of_the_program") == "BLEInterface[Porch]"
    assert (reticulum.directory / "at the end").read_text() == "[]", "no thread, so no driver"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_rnsd(reticulum: Reticulum, number):
    reticulum.configure({"Porch": {}})
    rnsd = reticulum.rnsd()
    rnsd.wait_for("joined")
    assert rnsd.terminate(number) == 0
    assert f"[Notice]   BLEInterface[Porch]: peer <{IDENTITY.hex()}> left" in rnsd.lines


def test_a_stack_that_hangs_does_not_keep_rnsd_from_ending(reticulum: Reticulum):
    reticulum.configure({"Porch": {"type": "Hanging"}})
    rnsd = reticulum.rnsd()
    rnsd.wait_for("joined")
    assert rnsd.terminate() == 0
    assert "BLEInterface[Porch]: the Bluetooth stack does not let go; left behind" in rnsd.output


def test_rnstatus_of_a_running_rnsd(reticulum: Reticulum):
    reticulum.configure(
        {"Porch": {}}, share_instance="yes", instance_name=f"test-{reticulum.directory.parent.name}"
    )
    rnsd = reticulum.rnsd()
    rnsd.wait_for("joined")
    status = reticulum.run("-m", "RNS.Utilities.rnstatus", "--config", str(reticulum.directory), "-j")
    assert status.wait() == 0
    reported = {i["name"]: i for i in json.loads(status.lines[-1])["interfaces"]}
    assert reported["BLEInterface[Porch]"]["clients"] == 1
    assert reported[PEER]["status"] is True
    text = reticulum.run("-m", "RNS.Utilities.rnstatus", "--config", str(reticulum.directory))
    assert text.wait() == 0
    assert "BLEInterface[Porch]" in text.output
    assert PEER in text.output


# --- configuration ---


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"max_connections": "many"}, "max_connections = many; allowed: an integer from 1 to 3840"),
        ({"type": "BLEInterface", "driver": "bumble"}, "driver = bumble needs transport, for example usb:0"),
        (
            {"device_name": "a, b"},
            "device_name = a, b; allowed: a text of 1 to 8 bytes of UTF-8, or nothing; ",
        ),
    ],
)
def test_a_bad_configuration_is_one_clear_line_and_rnsd_goes_on_without(
    reticulum: Reticulum, section, message
):
    reticulum.configure({"Bad": section, "Good": {}})
    rnsd = reticulum.rnsd()
    rnsd.wait_for("BLEInterface[Good]: peer")
    rnsd.wait_for("Started rnsd")
    errors = [line for line in rnsd.lines if line.startswith("[Error]")]
    assert errors[0].startswith(f"[Error]    BLEInterface[Bad]: can't be used: {message}")
    assert ConfigurationError.__name__ in rnsd.output, "Reticulum's own report follows"
    assert rnsd.terminate() == 0


def test_a_key_that_nobody_knows_is_a_warning_and_one_that_is_not_needed_a_notice(reticulum: Reticulum):
    reticulum.configure(
        {
            "Porch": {
                "max_conections": "3",
                "service_discovery_delay": "1.5",
                "mode": "full",
                "outgoing": "yes",
            }
        }
    )
    rnsd = reticulum.rnsd()
    rnsd.wait_for("joined")
    said = [line for line in rnsd.lines if "unknown key" in line or "not needed" in line]
    assert said == [
        "[Warning]  BLEInterface[Porch]: unknown key max_conections: did you mean max_connections?",
        "[Notice]   BLEInterface[Porch]: service_discovery_delay is not needed: services are read when the "
        "Bluetooth stack says that they are resolved",
    ]
    assert rnsd.terminate() == 0


def test_the_log_level_of_reticulum_decides(reticulum: Reticulum):
    reticulum.configure({"Porch": {"max_conections": "3", "service_discovery_delay": "1"}}, loglevel=2)
    process = reticulum.run("-m", "tests.system.scenarios", "one_peer", str(reticulum.directory))
    assert process.wait() == 0
    said = [line for line in process.lines if "BLEInterface[Porch]:" in line]
    assert said == [
        "[Warning]  BLEInterface[Porch]: unknown key max_conections: did you mean max_connections?"
    ]
