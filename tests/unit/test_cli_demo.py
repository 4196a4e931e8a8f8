"""What the demo reports, and what a person sees meanwhile. That it works is seen in tests/system."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import pytest

from rns_ble.cli.demo import scenario
from rns_ble.cli.demo.report import NodeReport, Report
from rns_ble.cli.progress import Progress


def complete(nodes: int = 3) -> Report:
    everybody = range(1, nodes + 1)
    return Report(
        nodes=nodes,
        resource_expected=1000,
        node_reports=[
            NodeReport(
                number=number,
                identity=f"{number:032x}",
                linked_to=(others := [other for other in everybody if other != number]),
                att_mtu=[517] * len(others),
                announces_heard_of=others,
                lxmf_proved_by=others,
            )
            for number in everybody
        ],
        resource_bytes=1000,
        resource_seconds=0.5,
        resource_sha256_ok=True,
        elapsed_seconds=4.0,
    )


def test_a_run_in_which_everything_arrived_is_ok() -> None:
    report = complete()
    assert report.ok
    assert (
        json.loads(json.dumps(report.as_json())).items()
        >= {
            "ok": True,
            "nodes": 3,
            "announces_heard": 6,
            "announces_expected": 6,
            "lxmf_delivered": 6,
            "lxmf_expected": 6,
            "resource_bytes": 1000,
            "resource_seconds": 0.5,
            "resource_sha256_ok": True,
            "links": 3,
            "att_mtu": 517,
            "elapsed_seconds": 4.0,
            "missing": [],
            "error": None,
        }.items()
    )
    table = report.as_table()
    assert "1000 bytes in 0.50 s, 2.0 kB/s, SHA-256 matches" in table
    assert table.endswith("Everything arrived, in 4.0 s.")


def test_every_single_thing_that_is_missing_makes_it_fail_and_is_named() -> None:
    def lost_link(report: Report) -> None:
        report.node_reports[0].linked_to.remove(3)

    def unheard(report: Report) -> None:
        report.node_reports[1].announces_heard_of.clear()

    def unproved(report: Report) -> None:
        report.node_reports[2].lxmf_proved_by.remove(2)

    def cut(report: Report) -> None:
        report.resource_bytes = 999

    def garbled(report: Report) -> None:
        report.resource_sha256_ok = False

    def unproved_resource(report: Report) -> None:
        report.resource_seconds = None

    for damage, line in (
        (lost_link, "node 1 has not got a BLE link to node 3"),
        (unheard, "node 2 has not got the announce of node 1, 3"),
        (unproved, "node 3 has not got the LXMF delivery proof of node 2"),
        (cut, "node 2 has got 999 of the Resource's 1000 bytes"),
        (garbled, "the Resource arrived with another SHA-256"),
        (unproved_resource, "node 1 has not got the proof of the Resource"),
    ):
        report = complete()
        for node in report.node_reports:
            node.linked_to, node.announces_heard_of = node.linked_to.copy(), node.announces_heard_of.copy()
            node.lxmf_proved_by = node.lxmf_proved_by.copy()
        damage(report)
        assert not report.ok
        assert report.missing == [line]
        assert f"FAILED after 4.0 s: not everything arrived\n  {line}" in report.as_table()


def test_an_error_makes_it_fail_even_when_everything_arrived() -> None:
    report = complete()
    report.error = "node 2 ended with exit code 1"
    assert not report.ok
    assert report.as_json()["error"] == "node 2 ended with exit code 1"
    assert "FAILED after 4.0 s: node 2 ended with exit code 1" in report.as_table()


def test_what_is_kept_is_said_last_and_what_is_not_is_null() -> None:
    report = complete()
    assert report.as_json()["kept"] is None
    report.kept = "/tmp/rns-ble-demo-x"
    assert report.as_json()["kept"] == "/tmp/rns-ble-demo-x"
    assert report.as_table().splitlines()[-1] == "Configurations and logs stay in /tmp/rns-ble-demo-x"


def test_what_is_kept_is_said_on_stderr_only_where_there_is_no_report_to_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream = io.StringIO()
    with scenario._directory(keep=True, progress=Progress(stream)):
        pass
    assert stream.getvalue() == ""

    def interrupted() -> None:
        with scenario._directory(keep=True, progress=Progress(stream)) as directory:
            assert directory.parent == tmp_path
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert f"configurations and logs stay in {tmp_path}/" in stream.getvalue()
    assert len(list(tmp_path.iterdir())) == 2


def test_times_are_milliseconds_and_a_cut_identity_shows_that_it_is_cut() -> None:
    report = complete()
    report.resource_seconds, report.elapsed_seconds = 0.4286543, 2.4321987
    report.node_reports[0].identity = "0123456789abcdef" * 2
    assert (report.as_json()["resource_seconds"], report.as_json()["elapsed_seconds"]) == (0.429, 2.432)
    assert "0123456789abcdef...  " in report.as_table()


def test_a_run_that_ended_before_anything_was_up_can_be_reported() -> None:
    report = Report(nodes=2, resource_expected=10, node_reports=[NodeReport(number=1)])
    assert not report.ok
    assert report.as_json()["att_mtu"] is None
    assert "0 of 10 bytes" in report.as_table()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_stage_is_one_line_that_changes() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.show("announces heard", 1, 12)
    progress.show("announces heard", 12, 12)
    progress.finish("announces heard", 12)
    progress.end()
    written = terminal.getvalue()
    assert written.count("\n") == 1
    assert "announces heard: 1 of 12" in written
    last = written.rsplit("\r", 1)[1]
    assert last.endswith("announces heard: all 12\n")


def test_elsewhere_only_finished_stages_are_lines() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(12):
        progress.show("announces heard", done, 12)
    progress.finish("announces heard", 12)
    progress.end()
    assert stream.getvalue().split("s  ", 1)[1] == "announces heard: all 12\n"
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_quiet(stream: io.StringIO) -> None:
    progress = Progress(stream, quiet=True)
    progress.say("one")
    progress.show("two", 1, 2)
    progress.finish("two", 2)
    progress.end()
    assert stream.getvalue() == ""
