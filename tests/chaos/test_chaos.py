"""The scenarios of docs/chaos.md, in the length that fits a test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from horsies.testing.postgres import EmbeddedServer, embedded_server

from .scenarios import SCENARIOS, play


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server() as server:
        yield server


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "name"), list(enumerate(SCENARIOS)), ids=list(SCENARIOS))
def test_nothing_is_lost(number: int, name: str, server: EmbeddedServer, tmp_path: Path) -> None:
    rows = play(name, server, tmp_path, ("asyncio", "trio")[number % 2], short=True)
    assert rows != []
    assert [row for row in rows if row.sent == 0] == []
    assert {row.scenario: row.faults for row in rows if row.faults} == {}
