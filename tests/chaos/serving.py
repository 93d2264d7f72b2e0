"""What `horsies worker` is pointed at: two releases of one application. The older one lacks a task."""

from __future__ import annotations

import os

from .application import NEW, OLD, die_with_parent, make_app

die_with_parent()
new = make_app(os.environ, NEW)
old = make_app(os.environ, OLD)
