"""Sphinx configuration."""

import re
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from sphinx.pycode import ModuleAnalyzer

import horsies

project = "horsies"
author = "the horsies contributors"
version = release = "0.1.0"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build", "newsfragments"]
default_role = "code"
html_theme = "furo"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 160
myst_heading_anchors = 3

# Sphinx looks for the docstrings of fields in the module that a class names. A public class names `horsies`.
_sources = [*sorted(Path(horsies.__file__).parent.glob("_*/**/*.py")), Path(horsies.hookspecs.__file__)]
ModuleAnalyzer.cache["module", "horsies"] = ModuleAnalyzer.for_string(
    "\npass\n".join(source.read_text() for source in _sources), "horsies"
)


def keep_sentences(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before the first colon of an attribute's docstring for a type; ours are sentences."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def tidy_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Hide how a class is made that only horsies makes, defaults that have no text, and a slip of Sphinx."""
    if what == "class" and obj.__module__ == "horsies":
        hints = str(get_type_hints(obj.__init__))
        if issubclass(obj, Enum) or getattr(obj, "_is_protocol", False) or re.search(r"'_|horsies\._", hints):
            return "", None
    if signature is None:
        return None
    signature = re.sub(r"= ?<[^<>]+>", "= ...", signature)
    return re.sub(r"(args|kwargs): ~typing\.~P", r"\1: P.\1", signature), returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_sentences, priority=100)
    app.connect("autodoc-process-signature", tidy_signature)
