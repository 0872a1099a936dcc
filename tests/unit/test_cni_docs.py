import re
from pathlib import Path

from cni.errors import ErrorCode
from cni.versions import SUPPORTED

TEXT = (Path(__file__).parents[2] / "docs" / "cni.md").read_text()


def test_the_table_of_errors_has_every_code_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", TEXT, re.MULTILINE)
    assert rows == [(str(code.value), code.name) for code in ErrorCode]


def test_the_versions_are_named() -> None:
    assert all(version in TEXT for version in SUPPORTED)
