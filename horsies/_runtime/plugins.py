"""The plugins of one runtime: found, checked and resolved once, when it opens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar

import pluggy

from .. import hookspecs
from .._core.errors import HorsiesError
from ..abc import BrokerFactory, Serializer, SupportsDelay

V = TypeVar("V")

SHIPPED = ("horsies.plugins.postgres", "horsies.plugins.sqlite", "horsies.plugins.serializers")
"""What comes with horsies is made of plugins like any other."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """What the plugins offer, by name."""

    brokers: Mapping[str, BrokerFactory]
    serializers: Mapping[str, Serializer]
    retry_policies: Mapping[str, SupportsDelay]


def load_plugins(extra: Iterable[object] = (), blocked: Iterable[str] = ()) -> Plugins:
    """Load the shipped, the installed (entry-point group `horsies`) and the `extra` plugins.

    Raises:
        HorsiesError: HRS-217 for a hook that does not exist, two plugins that offer one name, or a plugin that fails.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in blocked:
        manager.set_blocked(name)
    for name in SHIPPED:
        if not manager.is_blocked(name):
            manager.register(import_module(name), name)
    try:
        manager.load_setuptools_entrypoints(hookspecs.PROJECT)
        for plugin in extra:
            manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise HorsiesError(
            "HRS-217", f"a plugin does not fit: {error}", ["horsies.hookspecs lists every hook and its arguments"]
        ) from error
    except HorsiesError:
        raise
    except (Exception, SystemExit) as error:  # loading a plugin imports its module, which may do anything
        raise HorsiesError("HRS-217", f"a plugin cannot be loaded: {type(error).__name__}: {error}") from error
    return Plugins(
        brokers=_merged(manager, "horsies_brokers", "broker for URL scheme"),
        serializers=_merged(manager, "horsies_serializers", "serializer"),
        retry_policies=_merged(manager, "horsies_retry_policies", "retry policy"),
    )


def _merged(manager: pluggy.PluginManager, hook: str, kind: str) -> Mapping[str, Any]:
    merged: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        owner = implementation.plugin_name
        try:
            offered = dict(implementation.function())
        except (Exception, SystemExit) as error:  # the plugin's own function
            raise HorsiesError(
                "HRS-217", f"plugin {owner!r} failed in {hook}: {type(error).__name__}: {error}"
            ) from error
        for name, value in offered.items():
            if name in merged:
                raise HorsiesError(
                    "HRS-217",
                    f"plugins {owners[name]!r} and {owner!r} both offer the {kind} {name!r}",
                    ["leave one out with Horsies(block_plugins=[...])"],
                )
            merged[name], owners[name] = value, owner
    return MappingProxyType(merged)


def chosen(offered: Mapping[str, V], name: str, kind: str) -> V:
    """The plugin's object of that name.

    Raises:
        HorsiesError: HRS-217, naming what is installed.
    """
    if name not in offered:
        raise HorsiesError(
            "HRS-217",
            f"no plugin offers the {kind} {name!r}",
            [f"installed: {', '.join(sorted(offered)) or 'none'}"],
        )
    return offered[name]
