"""docs/security.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`(?:tests/cluster/)?(test_\w+)", (ROOT / "docs" / "security.md").read_text())))
SOURCES = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_document_names_tests() -> None:
    assert len(NAMED) > 10


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_document_names_exists(name: str) -> None:
    assert name in SOURCES or any(f"def {name}" in source for source in SOURCES.values())
