"""Fixtures for the tests of the emitter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from observed import Observed, Receiver


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """One receiver for all runs; each test is a run of its own."""
    with Receiver() as running:
        yield running


@pytest.fixture
def observed(receiver: Receiver, tmp_path: Path) -> Observed:
    """A directory for a fake OpenRLHF, and the frames that come out of it."""
    return Observed(tmp_path, receiver)
