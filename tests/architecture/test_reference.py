"""The API reference, as it is rendered: every public name, every public member, each described, and nothing else."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from bs4 import BeautifulSoup, Tag

import horsies

ROOT = Path(__file__).parent.parent.parent
PACKAGE = Path(horsies.__file__).parent

FOR_HORSIES_ITSELF = {
    "Horsies": "queue_of",
    "Task": "place settings signature",
    "TaskSendPayload": "seal",
    "Workflow": "signature",
    "WorkflowStartPayload": "seal",
}
"""Members that only horsies' own layers use. Their types are private, and the reference leaves them out."""


class Entry(NamedTuple):
    """A name as it is rendered: its signatures, more than one if it is overloaded, and the sentences about it."""

    signatures: list[str]
    sentences: list[str]


class Reference(NamedTuple):
    """The rendered page, and what is on it by name: the inventory says which names there are."""

    html: str
    page: BeautifulSoup
    entries: dict[str, Entry]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    built = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", built / "doctrees", ROOT / "docs", built]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    inventory = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    names = re.findall(r"^(\S+) py:\w+ \S+ api\.html#", inventory, re.MULTILINE)
    html = (built / "api.html").read_text()
    page = BeautifulSoup(html, "html.parser")
    places = {str(place["id"]): place for place in page.find_all("dt", id=True)}
    return Reference(html, page, {name: entry_at(places[name]) for name in names})


def entry_at(place: Tag) -> Entry:
    parts = [part for part in place.parent or () if isinstance(part, Tag)]
    signatures = [part.get_text() for part in parts if part.name == "dt"]
    texts = [part.find_all("p", recursive=False) for part in parts if part.name == "dd"]
    return Entry(signatures, [sentence.get_text() for text in texts for sentence in text])


def classes_in(paths: Iterable[Path]) -> Iterator[ast.ClassDef]:
    for path in paths:
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def attributes_set() -> dict[str, set[str]]:
    """What the methods of each class of horsies set on `self`, by the name of the class."""
    found = defaultdict[str, set[str]](set)
    for cls in classes_in(PACKAGE.rglob("*.py")):
        for node in ast.walk(cls):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found[cls.name] |= {node.attr} if ast.unparse(node.value) == "self" else set()
    return found


def public_members(cls: type, attributes: dict[str, set[str]]) -> set[str]:
    """The members of `cls` without an underscore, those of its bases in horsies among them."""
    found = set[str]()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "horsies":
            found |= vars(base).keys() | inspect.get_annotations(base).keys() | attributes[base.__name__]
    return {name for name in found if not name.startswith("_")}


def test_the_reference_has_every_public_member_and_nothing_else(reference: Reference) -> None:
    attributes = attributes_set()
    expected = set()
    for name in horsies.__all__:
        value = getattr(horsies, name)
        expected.add(f"horsies.{name}")
        if isinstance(value, type):
            members, left_out = public_members(value, attributes), set(FOR_HORSIES_ITSELF.get(name, "").split())
            assert left_out <= members
            expected |= {f"horsies.{name}.{member}" for member in members - left_out}
    assert sorted(expected - reference.entries.keys()) == []
    assert sorted(reference.entries.keys() - expected) == []


def test_the_reference_describes_everything_that_it_has(reference: Reference) -> None:
    undescribed = {
        name
        for name, entry in reference.entries.items()
        if all(sentence.startswith("alias of ") for sentence in entry.sentences)
    }
    assert sorted(undescribed) == []


def test_the_reference_shows_no_internals(reference: Reference) -> None:
    assert re.findall(r"horsies\._[\w.]*|TypeAliasForwardRef", reference.html) == []
    article = reference.page.find("article")
    assert isinstance(article, Tag)
    assert re.findall(r"\b_\w+|.{20} at 0x\w+|<factory>", article.get_text()) == []


def test_the_signatures_of_the_reference_name_public_types_alone(reference: Reference) -> None:
    public = {*horsies.__all__, *vars(horsies.abc)}
    private = {cls.name for cls in classes_in(PACKAGE.glob("_*/**/*.py"))} - public
    shown = {
        f"{name}: {word}"
        for name, entry in reference.entries.items()
        for word in re.findall(r"\w+", " ".join(entry.signatures))
        if word in private
    }
    assert sorted(shown) == []


def test_no_section_of_a_docstring_is_torn(reference: Reference) -> None:
    """Napoleon takes what stands before a colon for a type, also in a sentence, and leaves what it does not know."""
    fields = {field.get_text().rstrip(":") for field in reference.page.select("dl.field-list > dt")}
    assert fields == {"Parameters", "Raises", "Returns"}
    sections = re.compile(r"\b(Args|Attributes|Raises|Returns|Yields):")
    assert [text.get_text() for text in reference.page.find_all("p") if sections.search(text.get_text())] == []
