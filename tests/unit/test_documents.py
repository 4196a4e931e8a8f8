"""What the pages in docs/ say is what the code does, and what they show is what it was drawn from."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from rns_ble.admission import BLACKLIST_STEPS
from rns_ble.candidate import ATTEMPT_INTERVAL, Verdict
from rns_ble.config import BLEConfig
from rns_ble.peer import DETACH_GRACE, SETTLE_TIME
from rns_ble.protocol import gatt
from rns_ble.protocol.advertisement import RSSI_UNKNOWN
from rns_ble.protocol.fragmentation import MAX_BYTES, MAX_PACKETS, REASSEMBLY_TIMEOUT
from rns_ble.protocol.liveness import (
    ANSWER_LIMIT,
    DATA_LIMIT,
    KEEPALIVE_INTERVAL,
    PROBE_INTERVAL,
    SILENCE_LIMIT,
)
from rns_ble.protocol.pairs import OVERTAKING_TIME
from rns_ble.strangers import HANDSHAKE_TIMEOUT

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
PROTOCOL = " ".join((DOCS / "protocol.md").read_text().split())
DEFAULTS = BLEConfig()


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]+)?", prose(page)):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor[1:] in anchors(file), f"{target}{anchor}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert re.search(rf": {re.escape(page.name)}\b", navigation), page.name


@pytest.mark.parametrize("diagram", sorted(DOCS.glob("diagrams/*.d2")), ids=lambda path: path.stem)
def test_a_diagram_is_drawn_from_its_source(diagram: Path) -> None:
    digest = hashlib.sha256(diagram.read_bytes()).hexdigest()
    drawn = diagram.with_suffix(".svg").read_text()
    assert drawn.endswith(f"<!-- of {diagram.name}, SHA-256 {digest} -->\n"), "nox -s figures draws it anew"
    assert f"diagrams/{diagram.stem}.svg" in PROTOCOL


@pytest.mark.parametrize(
    "said",
    [
        f"| service (primary) | `{gatt.SERVICE_UUID}`",
        f"| TX: the peripheral notifies | `{gatt.TX_UUID}`",
        f"| RX: the central writes | `{gatt.RX_UUID}`",
        f"| Identity | `{gatt.IDENTITY_UUID}` | read: {gatt.IDENTITY_LENGTH} bytes",
        f"strength of {', '.join(map(str, sorted(RSSI_UNKNOWN)[:3]))} or {max(RSSI_UNKNOWN)} dBm",
        f"tells no identity within {HANDSHAKE_TIMEOUT:g} s",
        f"`min(ATT MTU - {gatt.ATT_HEADER}, {gatt.VALUE_MAXIMUM})`",
        f"A write is at most {gatt.WRITE_MAXIMUM}",
        f"given up {REASSEMBLY_TIMEOUT:g} s after its first fragment",
        f"At most {MAX_PACKETS} packets are in progress, with {MAX_BYTES // 1024} KiB",
        f"An END waits {1000 * OVERTAKING_TIME:g} ms",
        f"after {KEEPALIVE_INTERVAL:g} s without a fragment or a keepalive sent",
        f"after {SILENCE_LIMIT:g} s without any value",
        f"after {PROBE_INTERVAL:g} s without a fragment, PING or PONG",
        f"after {DATA_LIMIT:g} s without a fragment, PING or PONG",
        f"| link late | {ANSWER_LIMIT:g} s after",
        f"`dial_grace` ({DEFAULTS.dial_grace:g} s)",
        f"start at least {ATTEMPT_INTERVAL:g} s apart",
        f"`max_connection_failures` ({DEFAULTS.max_connection_failures})",
        f"`connection_retry_backoff` ({DEFAULTS.connection_retry_backoff:g} s)",
        f"up to {BLACKLIST_STEPS} times",
        f"`max_connections` ({DEFAULTS.max_connections})",
        f"stays for {DETACH_GRACE:g} s",
        f"never before both are {SETTLE_TIME:g} s old",
    ],
)
def test_the_numbers_of_the_protocols_page_are_those_of_the_code(said: str) -> None:
    assert said in PROTOCOL


def test_every_reason_why_somebody_is_not_linked_is_explained() -> None:
    page = (DOCS / "status.md").read_text()
    for verdict in Verdict:
        assert f"| {verdict.value} | `{verdict.name.lower()}` |" in page
