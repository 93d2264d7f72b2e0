"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: `make test-lowest` installs them.

The tools of `dev` stay what they are; only the libraries that tasks are written with are among its packages.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

EXTRAS = ("trio", "uvloop", "embedded")
WITH_TASKS = {"attrs", "pydantic"}
OLD_CLICK = "click<8.4"
"""Later ones warn that the lowest typer imports what they deprecate, and warnings are errors here."""


def constraints() -> list[str]:
    """One line for each package: `name==lowest`."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    needed += [line for line in extras["dev"] if re.split(r"[^\w-]", line)[0] in WITH_TASKS]
    lowest = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in needed]
    if None in lowest:
        raise SystemExit(f"a requirement has no lowest version: {needed[lowest.index(None)]}")
    return [*(f"{match[1]}=={match[2]}" for match in lowest if match), OLD_CLICK]


if __name__ == "__main__":
    print("\n".join(constraints()))
