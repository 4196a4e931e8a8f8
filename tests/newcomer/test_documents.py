"""Every command that a document tells its reader to type is run by a test, or there is a reason why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.newcomer.documents import PLAN, Scene, blocks, documents

HOW = (
    "Commands that are new or have gone: put them into PLAN in tests/newcomer/documents.py, with the scene "
    "in which they are run, or the reason why they are not."
)
OTHER_SHELLS = {"bash", "shell", "zsh", "sh-session"}


@pytest.mark.parametrize("document", documents())
def test_every_block_of_commands_is_accounted_for(document: str) -> None:
    there = Counter(block.heading for block in blocks(document) if block.language == "sh")
    planned = {heading: len(plan) for heading, plan in PLAN.get(document, {}).items()}
    assert dict(there) == planned, HOW


def test_no_document_is_planned_that_is_not_there() -> None:
    assert set(PLAN) <= set(documents())


@pytest.mark.parametrize("document", documents())
def test_commands_are_marked_as_sh(document: str) -> None:
    assert not {block.language for block in blocks(document)} & OTHER_SHELLS


@pytest.mark.parametrize("scene", Scene)
def test_every_scene_is_played(scene: Scene) -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f"{scene.__class__.__name__}.{scene.name}" in tests


@pytest.mark.parametrize("document", PLAN)
def test_a_reason_that_names_a_file_names_one_that_is_there(document: str) -> None:
    from tests.newcomer.documents import ROOT

    reasons = {what for plan in PLAN[document].values() for what in plan if isinstance(what, str)}
    for word in " ".join(reasons).replace(";", " ").replace(",", " ").split():
        if "/" in word:
            assert (ROOT / word).exists(), word
