"""What an advertisement may bring."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rns_ble.protocol.advertisement import NAME_MAXIMUM, shown_name


@given(st.text())
def test_no_name_forges_a_line_or_steers_a_terminal(name: str) -> None:
    shown = shown_name(name)
    assert (shown is None) == (not name)
    assert shown is None or (shown.isprintable() and len(shown) <= NAME_MAXIMUM)


def test_an_ordinary_name_is_left_alone() -> None:
    assert shown_name("RNS-Küche 1") == "RNS-Küche 1"
    assert shown_name("x\r\n\x1b[2J") == "x???[2J"
    assert shown_name(None) is None
