"""Sphinx configuration."""

import horsies

project = "horsies"
author = "the horsies contributors"
version = release = "0.1.0"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build", "newsfragments"]
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in horsies.__all__}
myst_heading_anchors = 3
