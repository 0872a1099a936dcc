"""docs/pipeline.md and the table map tell the same."""

from __future__ import annotations

import re
from pathlib import Path

from flows.tables import TABLES

TEXT = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text()


def test_the_document_has_a_section_for_each_table_in_their_order() -> None:
    headings = re.findall(r"^## Table (\d+): (\w+)$", TEXT, re.MULTILINE)
    assert headings == [(str(table.number), table.name) for table in TABLES]


def test_each_section_begins_with_what_its_table_decides_and_names_the_next_tables() -> None:
    for table in TABLES:
        following = ", ".join(f"`{each.name}`" for each in table.next) or "nowhere"
        assert f"## Table {table.number}: {table.name}\n\n{table.decides} Next: {following}.\n" in TEXT
