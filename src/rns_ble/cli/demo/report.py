"""What a demo run showed: the numbers, what is missing, and both as JSON or as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class NodeReport:
    """One node: whom it is linked to, whom it heard, whose proof it got. Numbers of nodes count from 1."""

    number: int
    identity: str | None = None
    linked_to: list[int] = field(default_factory=list)
    att_mtu: list[int] = field(default_factory=list)
    """Bytes, of each BLE link."""
    announces_heard_of: list[int] = field(default_factory=list)
    lxmf_proved_by: list[int] = field(default_factory=list)
    """Nodes that got a message of this one, with a valid signature, and whose delivery proof came back."""


@dataclass(slots=True, kw_only=True)
class Report:
    """The whole run."""

    nodes: int
    resource_expected: int
    """Bytes."""
    node_reports: list[NodeReport] = field(default_factory=list)
    resource_bytes: int = 0
    """Bytes that arrived at node 2."""
    resource_seconds: float | None = None
    """From the advertisement of the Resource by node 1 to the proof of the whole."""
    resource_sha256_ok: bool = False
    elapsed_seconds: float = 0.0
    error: str | None = None
    """Why the run ended before everything had arrived; None when it did not."""
    kept: str | None = None
    """The directory in which the nodes' configurations and logs stay; None when they were removed."""

    @property
    def pairs(self) -> int:
        """Ordered pairs of nodes: so many announces are to be heard and messages to be delivered."""
        return self.nodes * (self.nodes - 1)

    @property
    def announces_heard(self) -> int:
        """Pairs (a, b) in which b heard the announce of a's LXMF destination."""
        return sum(len(node.announces_heard_of) for node in self.node_reports)

    @property
    def lxmf_delivered(self) -> int:
        """Pairs (a, b) in which a's message reached b and the proof came back."""
        return sum(len(node.lxmf_proved_by) for node in self.node_reports)

    @property
    def links(self) -> int:
        """BLE links, each counted once."""
        return sum(len(node.att_mtu) for node in self.node_reports) // 2

    @property
    def ok(self) -> bool:
        """Everything arrived."""
        return not self.error and not self.missing

    @property
    def missing(self) -> list[str]:
        """What has not arrived, one line each."""
        everybody = range(1, self.nodes + 1)
        lines = []
        for node in self.node_reports:
            others = [number for number in everybody if number != node.number]
            for what, there in (
                ("a BLE link to", node.linked_to),
                ("the announce of", node.announces_heard_of),
                ("the LXMF delivery proof of", node.lxmf_proved_by),
            ):
                absent = [str(number) for number in others if number not in there]
                if absent:
                    lines.append(f"node {node.number} has not got {what} node {', '.join(absent)}")
        if self.resource_bytes != self.resource_expected:
            lines.append(
                f"node 2 has got {self.resource_bytes} of the Resource's {self.resource_expected} bytes"
            )
        elif not self.resource_sha256_ok:
            lines.append("the Resource arrived with another SHA-256")
        elif self.resource_seconds is None:
            lines.append("node 1 has not got the proof of the Resource")
        return lines

    def as_json(self) -> Mapping[str, object]:
        """What `--json` prints."""
        return {
            "ok": self.ok,
            "nodes": self.nodes,
            "announces_heard": self.announces_heard,
            "announces_expected": self.pairs,
            "lxmf_delivered": self.lxmf_delivered,
            "lxmf_expected": self.pairs,
            "resource_bytes": self.resource_bytes,
            "resource_expected": self.resource_expected,
            "resource_seconds": _milliseconds(self.resource_seconds),
            "resource_sha256_ok": self.resource_sha256_ok,
            "links": self.links,
            "links_expected": self.pairs // 2,
            "att_mtu": min((mtu for node in self.node_reports for mtu in node.att_mtu), default=None),
            "elapsed_seconds": _milliseconds(self.elapsed_seconds),
            "missing": self.missing,
            "error": self.error,
            "kept": self.kept,
            "node_reports": [
                {
                    "number": node.number,
                    "identity": node.identity,
                    "linked_to": node.linked_to,
                    "att_mtu": node.att_mtu,
                    "announces_heard_of": node.announces_heard_of,
                    "lxmf_proved_by": node.lxmf_proved_by,
                }
                for node in self.node_reports
            ],
        }

    def as_table(self) -> str:
        """What a person reads."""
        rows = [("node", "identity", "BLE links to", "ATT MTU", "heard announces of", "LXMF delivered to")]
        rows += [
            (
                str(node.number),
                f"{node.identity[:16]}..." if node.identity else "-",
                _numbers(node.linked_to),
                _range(node.att_mtu),
                _numbers(node.announces_heard_of),
                _numbers(node.lxmf_proved_by),
            )
            for node in self.node_reports
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines += [
            "",
            f"announces heard        {self.announces_heard} of {self.pairs}",
            f"LXMF, proof received   {self.lxmf_delivered} of {self.pairs}",
            f"Resource, node 1 to 2  {self._resource()}",
            f"BLE links              {self.links} of {self.pairs // 2}",
            "",
        ]
        if self.ok:
            lines.append(f"Everything arrived, in {self.elapsed_seconds:.1f} s.")
        else:
            lines += [f"FAILED after {self.elapsed_seconds:.1f} s: {self.error or 'not everything arrived'}"]
            lines += [f"  {line}" for line in self.missing]
        if self.kept is not None:
            lines.append(f"Configurations and logs stay in {self.kept}")
        return "\n".join(lines)

    def _resource(self) -> str:
        if self.resource_seconds is None:
            return f"{self.resource_bytes} of {self.resource_expected} bytes"
        speed = self.resource_bytes / self.resource_seconds / 1000
        checked = "SHA-256 matches" if self.resource_sha256_ok else "SHA-256 DIFFERS"
        return f"{self.resource_bytes} bytes in {self.resource_seconds:.2f} s, {speed:.1f} kB/s, {checked}"


def _milliseconds(seconds: float | None) -> float | None:
    """Rounded to what can be measured."""
    return None if seconds is None else round(seconds, 3)


def _numbers(numbers: list[int]) -> str:
    return " ".join(map(str, numbers)) or "-"


def _range(values: list[int]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
