"""Sphinx configuration."""

from pathlib import Path
from typing import Any

from sphinx.pycode import ModuleAnalyzer

import horsies

project = "horsies"
author = "the horsies contributors"
version = release = "0.1.0"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build", "newsfragments"]
default_role = "code"
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in horsies.__all__}
myst_heading_anchors = 3

# Sphinx looks for the docstrings of fields in the module that a class names. A public class names `horsies`.
_sources = sorted(Path(horsies.__file__).parent.glob("_*/*.py"))
ModuleAnalyzer.cache["module", "horsies"] = ModuleAnalyzer.for_string(
    "\npass\n".join(source.read_text() for source in [*_sources, Path(horsies.hookspecs.__file__)]), "horsies"
)


def keep_sentences(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before the first colon of an attribute's docstring for a type; ours are sentences."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_sentences, priority=100)
