"""The commands of the documents: every block that is marked as `sh`, and what becomes of it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(r" *```(?P<language>\w*)")
_HEADING: Final = re.compile(r"#+ (?P<text>.+)")


class Scene(Enum):
    """Where commands are run, in the order of the documents."""

    DEMO = auto()
    SEVERAL_NODES = auto()
    DONGLE = auto()
    COMPLETION = auto()
    FROM_NOTHING = auto()
    PIPX = auto()
    PAGE_FROM_NOTHING = auto()
    PAGE_PIPX = auto()


@dataclass(frozen=True)
class Block:
    """The commands between ```sh and ```, as they are, and where they stand."""

    document: str
    heading: str
    language: str
    commands: str


TWO_MACHINES: Final = "needs two machines; tests/bluez/test_bluez_radio.py does it with two adapters of one"
EXAMPLES: Final = "tests/system/test_examples.py runs the same on an ether of its own"
LABORATORY: Final = "tests/guest runs it"
DEVELOPERS: Final = "takes a quarter of an hour"
SYSTEMD: Final = "tests/deploy/test_systemd.py runs it"
ARCH: Final = "needs Arch Linux"

PLAN: Final[dict[str, dict[str, list[Scene | str]]]] = {
    "README.md": {
        "See it work": [Scene.DEMO, "is what .ci/run does"],
        "From nothing": [Scene.FROM_NOTHING] * 4,
        "With pipx": [Scene.PIPX] * 4,
        "What the installation does": [Scene.DONGLE],
        "When it does not work": [Scene.PIPX],
        "See what it does": [Scene.PIPX],
        "Check two machines' Bluetooth with one another": [TWO_MACHINES] * 3,
        "Several nodes on one machine": [Scene.SEVERAL_NODES] * 4,
        "Tab and the manual": [Scene.COMPLETION],
    },
    "CONTRIBUTING.md": {"Set-up": ["is what .ci/run does, and brings nox"]},
    "docs/bluez-lab.md": {"Running the tests": [LABORATORY], "Working in the guest": [LABORATORY]},
    "docs/install.md": {
        "Debian": [Scene.PAGE_FROM_NOTHING] * 4,
        "pipx": [Scene.PAGE_PIPX] * 4,
        "Arch Linux": [ARCH] * 2,
        "A USB dongle": [Scene.DONGLE],
    },
    "docs/deployment.md": {
        "A service of the system": [
            "needs /opt; tests/deploy/test_systemd.py makes the same",
            SYSTEMD,
            SYSTEMD,
        ],
        "A service of a user": ["needs a systemd with somebody who is logged in"],
        "Many machines": ["tests/deploy/test_deploy.py runs it on hosts of its own"],
    },
    "docs/doctor.md": {"Doctor": [Scene.PAGE_PIPX]},
    "docs/mutation.md": {"Mutation check": [DEVELOPERS]},
    "examples/README.md": {
        "Examples": ["is the first half of the demo"],
        "A chat: `chat/`": [
            EXAMPLES,
            EXAMPLES,
            EXAMPLES,
            "tests/system/test_status.py runs monitor on nodes of its own",
        ],
        "A gateway on a Raspberry Pi: `gateway/config`": [EXAMPLES],
    },
}
"""document → heading → for each block below it, the scene in which it is run or the reason why it is not."""


def documents() -> list[str]:
    """All that tell a reader what to type."""
    folders = ("docs", "examples", "deploy", ".github")
    found = [*ROOT.glob("*.md"), *(page for folder in folders for page in ROOT.glob(f"{folder}/**/*.md"))]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks(document: str) -> list[Block]:
    """Every block of code in a document, in its order."""
    heading, language, lines = "", None, list[str]()
    found = []
    for line in (ROOT / document).read_text().splitlines():
        fence = _FENCE.match(line)
        if language is not None:
            if fence:
                commands = textwrap.dedent("".join(f"{line}\n" for line in lines))
                found.append(Block(document, heading, language, commands))
                language = None
            lines.append(line)
        elif fence:
            language, lines = fence["language"], []
        elif match := _HEADING.match(line):
            heading = match["text"]
    return found


def commands_of(scene: Scene) -> list[str]:
    """What is typed in a scene, block by block."""
    found = []
    for document, headings in PLAN.items():
        for heading, plan in headings.items():
            if scene in plan:
                there = [b for b in blocks(document) if b.heading == heading and b.language == "sh"]
                found += [block.commands for block, what in zip(there, plan, strict=True) if what is scene]
    return found
