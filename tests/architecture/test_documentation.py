"""The documentation agrees with the code, and the programs in it run."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import horsies
from horsies import Horsies, ResilienceConfig, hookspecs
from horsies._core.limits import SEND_ROWS, STATEMENT_BYTES
from horsies._schedule.due import LATE, MOST
from horsies._schedule.scheduler import LAG
from horsies._worker.completer import BATCH, BUFFER, BUFFER_BYTES

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
CONFIGS = [name for name in horsies.__all__ if name.endswith("Config") or name == "PayloadPolicy"]


def test_the_api_page_has_every_public_name_in_order() -> None:
    documented = re.findall(r"^\.\. auto\w+:: horsies\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert documented == horsies.__all__


def test_the_picture_of_the_layers_is_the_import_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [contract] = [one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    picture = re.search(r"```text\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    assert picture is not None
    assert picture[1].splitlines() == contract["layers"]


def test_the_ways_on_the_architecture_page_lead_through_what_is_there() -> None:
    page = (DOCS / "architecture.md").read_text()
    steps = re.findall(r"^ *([\w.]+(?:, [\w.]+)*|Ok\(TaskHandle\)) {2,}(\S+\.py)", page, re.MULTILINE)
    assert len(steps) > 25
    for names, file in steps:
        code = (ROOT / "horsies" / file).read_text()
        for name in re.findall(r"[\w.]+", names.removeprefix("Ok")):
            *_, last = name.split(".")
            assert re.search(rf"^ *(?:async def|def|class) {last}\b", code, re.MULTILINE), (name, file)


def test_the_plugins_page_has_every_hook() -> None:
    hooks = {name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")}
    listed = re.search(r"automodule:: horsies\.hookspecs\n +:members: (.*)", (DOCS / "plugins.md").read_text())
    assert listed is not None
    assert set(listed[1].split(", ")) == hooks


def test_the_errors_page_has_exactly_the_codes_that_are_raised() -> None:
    raised = {
        code
        for module in Path(horsies.__file__).parent.rglob("*.py")
        for code in re.findall(r"\"(HRS-\d{3})\"", module.read_text())
    }
    documented = re.findall(r"^\| (HRS-\d{3}) \|", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert documented == sorted(raised)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_page_has_every_field_with_its_default(name: str) -> None:
    config = getattr(horsies, name)
    section = (DOCS / "configuration.md").read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? *\|", section, re.MULTILINE)
    fields = [field for field in dataclasses.fields(config) if field.init]
    assert documented == [(field.name, shown_default(field)) for field in fields]


def shown_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default).replace("datetime.", "").replace("'", '"')
    if field.default_factory is not dataclasses.MISSING:
        return f"{type(field.default_factory()).__name__}()"
    return ""


def test_the_operations_page_has_the_bounds_on_what_waits() -> None:
    mebibyte = 1024 * 1024
    section = (DOCS / "operations.md").read_text().partition("## When the database is slower than you\n")[2]
    for bound in (
        f"{BUFFER:,} results or {BUFFER_BYTES // mebibyte} MiB of results not yet written",
        f"{SEND_ROWS:,} tasks at most, or {BATCH:,} results, and {STATEMENT_BYTES // mebibyte} MiB",
    ):
        assert bound in section


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_program_in_the_readme_runs(backend: str, tmp_path: Path) -> None:
    assert output_of(program_in(ROOT / "README.md"), backend, tmp_path) == "Ok(value=5)\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", ["schedules", "workflows"])
def test_the_program_of_a_page_prints_what_the_page_says(name: str, backend: str, tmp_path: Path) -> None:
    page = DOCS / f"{name}.md"
    [printed] = re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL)
    assert output_of(program_in(page), backend, tmp_path) == printed
    for picture in tmp_path.glob("*.svg"):
        assert picture.read_text() == (DOCS / name / picture.name).read_text()


def program_in(page: Path) -> str:
    """The one block of the page that is a whole program."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    [program] = [block for block in blocks if "__main__" in block]
    return program


def output_of(program: str, backend: str, folder: Path) -> str:
    (folder / "app.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "app.py", backend],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_the_workflows_page_shows_what_its_program_draws() -> None:
    page = DOCS / "workflows.md"
    drawn = re.findall(r"Path\(\"(\w+\.svg)\"\)", program_in(page))
    assert drawn == re.findall(r"!\[.*?\]\(workflows/(.*?)\)", page.read_text()) == ["order.svg"]


def test_the_schedules_page_has_the_bounds() -> None:
    page = (DOCS / "schedules.md").read_text()
    assert (LATE, LAG, ResilienceConfig().poll_interval) == (timedelta(minutes=1), timedelta(seconds=2), 5.0)
    assert f"the last {MOST:,} at most" in page
    for option in inspect.signature(Horsies.schedule).parameters.keys() - {"self", "name", "task", "pattern"}:
        assert f"`{option}`" in page


def test_the_python_in_the_documentation_is_python() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            # Extracts may await: they stand inside an async function of the reader's.
            body = "async def reader():\n" + "".join(f"    {line}\n" for line in code.splitlines())
            compile(body, f"{page.name}, block {number}", "exec")
