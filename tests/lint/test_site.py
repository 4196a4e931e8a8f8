"""The documentation site: it builds, and nothing in it leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
PAGE = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hook."""
    pytest.importorskip("material", reason="mkdocs is not installed: pip install -e '.[docs]'")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    import pages

    return pages


def test_the_site_builds_without_a_warning(pages: ModuleType, tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert outcome.returncode == 0, "see what it says above"


def test_a_page_takes_sections_of_the_readme_and_parts_of_the_source(pages: ModuleType) -> None:
    shown = pages.on_page_markdown(
        'Before.\n\n[x](../README.md#transports "include")\n\n[x](../src/rns_ble/config.py "generated")\n',
        page=PAGE,
        config=None,
        files=None,
    )
    assert shown.startswith("Before.\n\nThe `transport` of")
    assert "### dial_grace\n" in shown
    assert "README" not in shown


@pytest.mark.parametrize(
    "line", ['[x](../README.md#no-such-section "include")', '[x](../src/nothing.py "generated")']
)
def test_what_can_not_be_put_in_is_an_error(pages: ModuleType, line: str) -> None:
    with pytest.raises(Exception, match=r"page\.md"):
        pages.on_page_markdown(line, page=PAGE, config=None, files=None)


def test_links_are_put_right_for_the_site(pages: ModuleType) -> None:
    written = "[a](../CONTRIBUTING.md#tests) [b](../README.md) [c](bluez.md#faults) [d](../pyproject.toml)"
    right = "[a](contributing.md#tests) [b](index.md) [c](bluez.md#faults) [d](../pyproject.toml)"
    assert pages.on_page_markdown(written, page=PAGE, config=None, files=None) == right


@pytest.mark.parametrize(
    "fetched",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<img alt="a" src="//example.org/a.svg">',
    ],
)
def test_a_page_that_would_fetch_something_from_elsewhere_is_refused(pages: ModuleType, fetched: str) -> None:
    assert pages.on_post_page('<a href="https://example.org">', page=PAGE, config=None)
    with pytest.raises(Exception, match=r"page\.md fetches something from elsewhere"):
        pages.on_post_page(fetched, page=PAGE, config=None)
