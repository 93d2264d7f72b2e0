"""Every hook there is.

A plugin is a module, class or object with functions of these names, each marked with `horsies.hookimpl`. It is found
through the entry-point group `horsies`, or handed to `Horsies(plugins=[...])`. Hooks are synchronous, cheap and return
things; the runtime uses what they return in its own nursery.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from .abc import BrokerFactory, Serializer, SupportsDelay

PROJECT = "horsies"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of that name."""


@hookspec
def horsies_brokers() -> Mapping[str, BrokerFactory]:  # type: ignore[empty-body]  # a specification has no body
    """Brokers by URL scheme, in lower case."""


@hookspec
def horsies_serializers() -> Mapping[str, Serializer]:  # type: ignore[empty-body]  # no spec is ever called
    """Serializers by name. The name is stored with what they write, so it must keep its meaning for ever."""


@hookspec
def horsies_retry_policies() -> Mapping[str, SupportsDelay]:  # type: ignore[empty-body]  # no spec is ever called
    """Retry policies by name, as in `TaskSendOptions(retry="name")`."""
