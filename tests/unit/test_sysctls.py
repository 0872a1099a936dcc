from __future__ import annotations

from pathlib import Path

import pytest

from agent.sysctls import Sysctl, SysctlError, apply


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("1\n")
    (tmp_path / "wrong").write_text("0\n")
    assert apply((Sysctl("right", "1"), Sysctl("wrong", "1")), root=tmp_path) == ("wrong",)
    assert (tmp_path / "wrong").read_text() == "1"


def test_a_missing_setting_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SysctlError, match="net/missing"):
        apply((Sysctl("net/missing", "1"),), root=tmp_path)


def test_an_optional_setting_may_be_missing(tmp_path: Path) -> None:
    assert apply((Sysctl("net/missing", "1", optional=True),), root=tmp_path) == ()
