"""A plugin in a package of its own, installed as pip installs it, found through its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

THIRD_PARTY = Path(__file__).parent.parent / "third_party"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", str(target), str(THIRD_PARTY / "horsies_rot13")], check=True)
    return target


def program(backend: str, folder: Path, *, site: Path | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", THIRD_PARTY / "program.py", backend, f"sqlite:///{folder / 'horsies.db'}"],
        env={**os.environ, "PYTHONPATH": "" if site is None else str(site)},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_installed_serializer_is_found_and_used(backend: str, site: Path, tmp_path: Path) -> None:
    done = program(backend, tmp_path, site=site)
    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (["hello world", "stored True True"], "", 0)


def test_without_the_package_the_runtime_says_what_is_installed(tmp_path: Path) -> None:
    done = program("asyncio", tmp_path, site=None)
    assert done.returncode != 0
    assert "[HRS-217] no plugin offers the serializer 'rot13'" in done.stderr
    assert "installed: json, msgpack" in done.stderr
