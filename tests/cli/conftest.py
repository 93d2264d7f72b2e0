"""The command line in a folder and a database of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .shell import Shell
from .yard import Yard


@pytest.fixture
def shell(tmp_path: Path, database_url: str, schema: str) -> Shell:
    return Shell(tmp_path, database_url, schema)


@pytest.fixture
def yard(shell: Shell) -> Yard:
    return Yard(shell)
