"""What can be known of an application without its database."""

from __future__ import annotations

from .._core.errors import HorsiesError, raise_all
from .._core.urls import scheme_of
from .._task.app import Horsies
from .plugins import Plugins, chosen, load_plugins


def check(app: Horsies) -> Plugins:
    """Load the plugins and see that everything the application names is there.

    Raises:
        HorsiesError: with every problem found.
    """
    plugins = load_plugins(app.plugins, app.block_plugins)
    problems = []
    wanted = [
        (plugins.brokers, scheme_of(app.config.url) or "", "broker for URL scheme"),
        (plugins.serializers, app.config.serializer, "serializer"),
        *(
            (plugins.retry_policies, task.settings.retry, f"retry policy of task {task.name!r}")
            for task in app.tasks.values()
            if isinstance(task.settings.retry, str)
        ),
    ]
    for offered, name, kind in wanted:
        try:
            chosen(offered, name, kind)
        except HorsiesError as error:
            problems.append(error)
    raise_all(problems)
    return plugins
