"""A short soak: a minute of what `make soak` does for hours, always the same."""

from __future__ import annotations

import os

import pytest

from tests.support.soak.run import soak

SEED = 2
STEPS = 14


@pytest.mark.timeout(300)
def test_a_short_soak_finds_nothing_wrong() -> None:
    told: list[str] = []
    outcome = soak(f"test-{os.getpid()}", SEED, 2, most_steps=STEPS, seconds=200, tell=told.append)
    assert not outcome.failure, f"{outcome}; the steps before: {told}"
    assert outcome.steps == STEPS
