"""What mkdocs needs to know of this repository, as one hook (`hooks:` in mkdocs.yml).

1. README.md, CONTRIBUTING.md and CHANGELOG.md stand beside docs/, where people and PyPI look for them. The
   last two are pages of the site; of README.md a page takes sections, so that each fact has one source.
2. Such a section is asked for by a link in a line of its own whose title is "include":

       [Put it into your Reticulum](../README.md#put-it-into-your-reticulum "include")

   Here the section, up to the next heading, takes its place; on GitHub it is a link.
3. In the same way a link titled "generated" to a source of this package stands for what generated.py makes
   of that source.
4. Links between all these files are written as they are right in the repository, and put right for the site.
5. Nothing that the site shows is fetched from elsewhere: it can be read offline, and tells on nobody.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

sys.path.insert(0, str(Path(__file__).parent))
from generated import PARTS

ROOT: Final = Path(__file__).parents[2]

ROOT_PAGES: Final = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files beside docs/ that are pages of the site, and how they are called there."""

HOME: Final = "index.md"
"""Where a link to README.md as a whole leads to."""

_LINK: Final = re.compile(r"(?<=\]\()(?P<path>[\w./-]+\.\w+)(?P<anchor>#[^)\s]*)?(?=\))")
_INCLUDE: Final = re.compile(r'^\[[^\]]+\]\(\.\./README\.md#(?P<anchor>[^)\s]+) "include"\)$', re.MULTILINE)
_GENERATED: Final = re.compile(r'^\[[^\]]+\]\((?P<source>[^)\s]+) "generated"\)$', re.MULTILINE)
_HEADING: Final = re.compile(r"^#+ (?P<text>.+)$")
_FETCHED: Final = re.compile(
    r'<(?:script|img|iframe|link(?= [^>]*rel="?stylesheet))[^>]*?="?(?:https?:)?//[^">]+'
)

_slug: Final = slugify(case="lower")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand beside docs/."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=_for_docs((ROOT / name).read_text())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what a page takes from README.md, and put its links right."""
    sections = _sections((ROOT / "README.md").read_text())

    def included(match: re.Match[str]) -> str:
        try:
            return sections[match["anchor"]]
        except KeyError:
            raise PluginError(f"{page.file.src_uri}: README.md has no section #{match['anchor']}") from None

    def generated(match: re.Match[str]) -> str:
        try:
            return PARTS[match["source"]]()
        except KeyError:
            raise PluginError(f"{page.file.src_uri}: nothing is made of {match['source']}") from None

    return _LINK.sub(_for_site, _GENERATED.sub(generated, _INCLUDE.sub(included, markdown)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch something from elsewhere."""
    if found := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches something from elsewhere: {found[0]}")
    return output


def _for_docs(text: str) -> str:
    """The text of a file beside docs/ as it would be written inside it."""
    return _LINK.sub(
        lambda match: (
            match["path"].removeprefix("docs/") + (match["anchor"] or "")
            if match["path"].startswith("docs/")
            else f"../{match[0]}"
        ),
        text,
    )


def _for_site(match: re.Match[str]) -> str:
    """A link out of docs/ as a link to the page that the file is on the site."""
    name = match["path"].removeprefix("../")
    if name == match["path"] or name not in {"README.md", *ROOT_PAGES}:
        return match[0]
    return ROOT_PAGES.get(name, HOME) + (match["anchor"] or "")


def _sections(text: str) -> dict[str, str]:
    """What stands below each heading, up to the next one, by the heading's anchor."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    fenced = False
    for line in _for_docs(text).splitlines():
        fenced ^= line.startswith("```")
        if not fenced and (match := _HEADING.match(line)):
            lines = sections.setdefault(_slug(match["text"], "-"), [])
        else:
            lines.append(line)
    return {anchor: "\n".join(lines).strip() for anchor, lines in sections.items()}
