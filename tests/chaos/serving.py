"""What `horsies worker` is pointed at: two releases of one application, of which the older lacks a task; a third one
has a schedule."""

from __future__ import annotations

import os

from .application import NEW, OLD, die_with_parent, make_app, make_scheduled_app

die_with_parent()
new = make_app(os.environ, NEW)
old = make_app(os.environ, OLD)
scheduled = make_scheduled_app(os.environ)
