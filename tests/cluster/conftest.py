"""Fixtures of the cluster tier."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import LabUnderTest, k8sovs

LABS = Path("/run/k8sovs-lab")
PREFIX = "test-"


@pytest.fixture(scope="session", autouse=True)
def no_labs_of_dead_runs() -> None:
    """Remove what a test run that crashed has left; a lab's name ends in the process id of its run."""
    for directory in LABS.glob(f"{PREFIX}*"):
        if not Path("/proc", directory.name.removeprefix(PREFIX)).exists():
            k8sovs("lab", "down", "--name", directory.name)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """A lab for the tests of one module, whose LAB_OPTIONS (if it has them) are options of `lab up`."""
    running = LabUnderTest(f"{PREFIX}{os.getpid()}")
    try:
        running("up", *getattr(request.module, "LAB_OPTIONS", ()))
        yield running
    finally:
        running("down")
