"""What `status`, `scan` and `monitor` show of the interfaces that run, as lines of text."""

from __future__ import annotations

import enum
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import rns_ble
from rns_ble.cli.running import Interface, Running
from rns_ble.cli.tables import NOTHING, Column, duration, number, plain, size, table

LINKED: Final = "linked"
"""The verdict on who is linked (`rns_ble.candidate.Verdict`)."""

IN_FLIGHT: Final = "in_flight"
"""The verdict on who is being dialled."""

STATE_WIDTH: Final = 48
"""Letters of a line of `state`, at least: most verdicts take fewer, and what follows one reads well at it."""

SMOOTHING: Final = 0.2
"""How much of a new signal strength goes into the mean that the trend compares it with: some 5 sightings."""


SAME_SIGHTING: Final = 0.05
"""Seconds by which the time of one sighting differs from answer to answer, for each takes its own to come."""


class Style(enum.Enum):
    """What a line is, for who can show it."""

    PLAIN = enum.auto()
    HEADING = enum.auto()
    GOOD = enum.auto()
    BAD = enum.auto()


@dataclass(frozen=True)
class Line:
    """One line of a screen, whatever it is made of: names and reasons come from other users and the air."""

    text: str = ""
    style: Style = Style.PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", plain(self.text))


class Rates:
    """Bytes a second of each peer, out of two snapshots."""

    def __init__(self) -> None:
        self._last: dict[object, tuple[float, int, int]] = {}
        self._rates: dict[object, tuple[float, float]] = {}

    def update(self, interfaces: Sequence[Interface]) -> None:
        """Take the next snapshot."""
        last, self._last = self._last, {}
        rates, self._rates = self._rates, {}
        for interface in interfaces:
            for peer in (interface["mesh"] or {}).get("peers", ()):
                key = self._key(interface, peer)
                age, rx, tx = self._last[key] = peer["age"], peer["rx_bytes"], peer["tx_bytes"]
                age_before, rx_before, tx_before = last.get(key, (math.inf, 0, 0))
                if age > age_before:
                    seconds = age - age_before
                    self._rates[key] = (rx - rx_before) / seconds, (tx - tx_before) / seconds
                elif age == age_before and key in rates:  # the same snapshot once more
                    self._rates[key] = rates[key]
                # Younger than before: it has been away, and has counted anew.

    def of(self, interface: Interface, peer: dict[str, Any]) -> tuple[float | None, float | None]:
        """Received and sent, or None where there was one snapshot only."""
        return self._rates.get(self._key(interface, peer), (None, None))

    @staticmethod
    def _key(interface: Interface, peer: dict[str, Any]) -> object:
        return interface["pid"], interface["name"], peer["identity"]


class Trends:
    """How each signal strength compares with what it was before."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[float, float, int]] = {}  # when heard, mean, trend

    def update(self, candidates: Sequence[dict[str, Any]], now: float) -> None:
        """Take the next snapshot, at that time (seconds, any clock)."""
        known, self._known = self._known, {}
        for candidate in candidates:
            if (rssi := candidate["rssi"]) is None:
                continue
            key, heard = self._key(candidate), now - candidate["seen"]
            heard_before, mean, trend = known.get(key, (-math.inf, float(rssi), 0))
            if heard > heard_before + SAME_SIGHTING:
                trend = round(rssi - mean)
                mean += SMOOTHING * (rssi - mean)
                heard_before = heard
            self._known[key] = heard_before, mean, trend

    def of(self, candidate: dict[str, Any]) -> str:
        """In dB, with its sign."""
        _heard, _mean, trend = self._known.get(self._key(candidate), (0.0, 0.0, 0))
        return f"{trend:+d}" if trend else "="

    @staticmethod
    def _key(candidate: dict[str, Any]) -> object:
        return candidate.get("interface"), candidate["address"]


_PeerRow = tuple[dict[str, Any] | None, dict[str, Any] | None, tuple[float | None, float | None]]
"""The peer, in the row of its first link only; the link; the rates."""


def _of(part: dict[str, Any] | None, field: str) -> str:
    return "" if part is None else number(part[field])


PEERS: Final[tuple[Column[_PeerRow], ...]] = (
    Column("peer", lambda row: _of(row[0], "identity"), shortest=8),
    Column("role", lambda row: _of(row[1], "role"), spare=7),
    Column("address", lambda row: _of(row[1], "address"), spare=9),
    Column("dBm", lambda row: _of(row[1], "rssi"), right=True),
    Column("MTU", lambda row: _of(row[1], "att_mtu"), right=True, spare=6),
    Column("path", lambda row: _of(row[1], "data_path"), spare=8),
    Column("up", lambda row: duration(row[1]["age"]) if row[1] else "", right=True, spare=10),
    Column("heard", lambda row: duration(row[1]["heard"]) if row[1] else "", right=True, spare=13),
    Column("rx", lambda row: size(row[0]["rx_bytes"]) if row[0] else "", right=True, spare=4),
    Column("tx", lambda row: size(row[0]["tx_bytes"]) if row[0] else "", right=True, spare=4),
    Column("rx/s", lambda row: size(row[2][0]) if row[0] else "", right=True, spare=2),
    Column("tx/s", lambda row: size(row[2][1]) if row[0] else "", right=True, spare=2),
    Column("queue", lambda row: _of(row[0], "tx_queued"), right=True, spare=3),
    Column("dropped", lambda row: _of(row[0], "tx_dropped"), right=True, spare=5),
    Column("incomplete", lambda row: _of(row[0], "rx_incomplete"), right=True, spare=11),
    Column("foreign", lambda row: _of(row[0], "rx_foreign"), right=True, spare=12),
    Column("missed", lambda row: _of(row[1], "rx_values_dropped"), right=True, spare=14),
)
"""docs/status.md says what each of them means."""

_Candidate = tuple[dict[str, Any], str]
"""The candidate; its trend."""


def _seen(row: _Candidate) -> str:
    return f"{duration(row[0]['seen'])} ago"


def why(candidate: dict[str, Any]) -> str:
    """The verdict on a candidate, for how long it stays, and why the last attempt has failed."""
    said = str(candidate["verdict_text"])
    if candidate["verdict_ends"] is not None:
        said += f" (for {duration(candidate['verdict_ends'])})"
    elif candidate["left_alone"]:
        said += f"; failed too often before (for {duration(candidate['left_alone'])})"
    elif candidate["verdict"] == IN_FLIGHT and candidate["tried"] is not None:
        said += f" (since {duration(candidate['tried'])})"
    if candidate["last_failure"] and candidate["verdict"] != LINKED:
        said += f"; last time: {candidate['last_failure']}"
    return said


NODES: Final[tuple[Column[_Candidate], ...]] = (
    Column("address", lambda row: row[0]["address"]),
    Column("dBm", lambda row: number(row[0]["rssi"]), right=True),
    Column("trend", lambda row: row[1], right=True, spare=4),
    Column("seen", _seen, right=True, spare=2),
    Column("flags", lambda row: number(row[0]["flags"]), spare=5),
    Column("failed", lambda row: f"{row[0]['failures']} of {row[0]['attempts']}", right=True, spare=6),
    Column("identity", lambda row: number(row[0]["identity"])[:16], spare=8),
    Column("name", lambda row: row[0]["name"] or NOTHING, spare=7),
    Column("state", lambda row: why(row[0]), shortest=STATE_WIDTH, wraps=True),
)
"""As above."""

HEARD_BY: Final[Column[_Candidate]] = Column("heard by", lambda row: str(row[0]["interface"]), spare=3)
"""Where several interfaces hear the same nodes."""

NOT_LINKED: Final = tuple(
    Column("not linked", column.text) if column.heading == "address" else column
    for column in NODES
    if column.heading != "trend"
)


def overview(running: Running, rates: Rates, width: int | None = None) -> list[Line]:
    """Everything about every interface."""
    lines: list[Line] = []
    for interface in running.interfaces:
        if lines:
            lines.append(Line())
        lines += _interface(interface, rates, width)
    for error in running.errors:
        lines += _wrapped(error, width, Style.BAD)
    return lines


def _wrapped(text: str, width: int | None, style: Style = Style.PLAIN) -> list[Line]:
    if width is None:
        return [Line(text, style)]
    return [Line(line, style) for line in textwrap.wrap(text, max(width, 20), subsequent_indent="    ")]


def _interface(interface: Interface, rates: Rates, width: int | None) -> Iterator[Line]:
    name, mesh = interface["name"], interface["mesh"]
    if mesh is None:
        yield from _wrapped(f"{name}: OFFLINE: {interface['offline_reason']}", width, Style.BAD)
    else:
        yield Line(f"{name}: online", Style.GOOD)
    for fact in _facts(interface):
        yield from _wrapped(f"  {fact}", width)
    if mesh is None:
        return
    peers: list[_PeerRow] = []
    for peer in mesh["peers"]:
        first, *others = peer["links"] or [None]
        peers.append((peer, first, rates.of(interface, peer)))
        peers += [(None, link, (None, None)) for link in others]
    yield from _table(PEERS, peers, width, "no peers")
    unlinked = [(candidate, "") for candidate in mesh["candidates"] if candidate["verdict"] != LINKED]
    if unlinked:
        yield from _table(NOT_LINKED, unlinked, width, "")


def _facts(interface: Interface) -> Iterator[str]:
    mesh = interface["mesh"]
    which = interface["transport"] if interface["driver"] == "bumble" else interface["adapter"]
    parts = [f"driver {interface['driver']}{f' on {which}' if which else ''}"]
    if interface["address"]:
        parts.append(f"address {interface['address']}")
    parts.append(f"process {interface['pid']}, up {duration(interface['age'])}")
    yield ", ".join(parts)
    if mesh is not None:
        parts = [f"identity {mesh['identity']}", f"{mesh['links']} of {mesh['max_connections']} links"]
        for what, how in (("scanning", mesh["scanning"]), ("advertising", mesh["advertising"])):
            parts.append(what if how else f"not {what} now")
        yield ", ".join(parts)
        if mesh["attempts_in_flight"]:
            yield f"dialling {', '.join(mesh['attempts_in_flight'])}"
        if mesh["strangers"]:
            yield f"connected, and have not said who they are: {mesh['strangers']}"
    if interface["packets_dropped"]:
        yield f"packets that Reticulum was too slow to take: {interface['packets_dropped']}"
    if interface["version"] != rns_ble.__version__:
        yield (
            f"it runs rns_ble {interface['version']}, and this is {rns_ble.__version__}: "
            "restart it to bring it up to date"
        )


def nodes(candidates: Sequence[dict[str, Any]], trends: Trends, width: int | None = None) -> list[Line]:
    """Everybody who is heard."""
    rows = [(candidate, trends.of(candidate)) for candidate in candidates]
    several = len({candidate.get("interface") for candidate in candidates}) > 1
    columns = (*NODES[:-1], HEARD_BY, NODES[-1]) if several else NODES
    return list(_table(columns, rows, width, "nobody was heard yet"))


def _table(
    columns: Sequence[Column[Any]], rows: Sequence[Any], width: int | None, none: str
) -> Iterator[Line]:
    if not rows:
        yield Line(f"  {none}")
        return
    heading, *others = table(columns, rows, width)
    yield Line(heading, Style.HEADING)
    yield from map(Line, others)
