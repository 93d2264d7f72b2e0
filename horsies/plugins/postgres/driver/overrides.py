"""The private parts of psycopg that horsies relies on, because there is no public way to the same.

- `Connection._connect_gen` is the only place where a connection that is being made can be given up: `SyncConnection`.
- `AsyncPipeline._exit_gen`, and the three steps that it consists of, decide what ends a pipeline: `Pipeline`.
- `AsyncConnection._pipeline` takes that pipeline, and `_autocommit` a mode that is set without `await`.

Everything else that horsies uses of its libraries is public, except for Trio's scheduler in the simulation
(`horsies.testing._simulation.scheduler`).
"""

from __future__ import annotations

import logging

import psycopg
from psycopg.abc import PQGen

from horsies import HorsiesError

OVERRIDDEN = {
    psycopg.Connection: ("_connect_gen",),
    psycopg.AsyncPipeline: ("_exit_gen", "_enqueue_sync", "_communicate_gen", "_fetch_gen"),
}
"""What is a method, so that its presence can be seen."""


def require_psycopg() -> None:
    """Raise HRS-211 if the installed psycopg lacks what `OVERRIDDEN` names: it would fail later, or in silence."""
    missing = [
        f"{owner.__name__}.{name}" for owner, names in OVERRIDDEN.items() for name in names if not hasattr(owner, name)
    ]
    if missing:
        raise HorsiesError(
            "HRS-211",
            f"horsies cannot use psycopg {psycopg.__version__}: it has no {', '.join(missing)}",
            ["install an older psycopg, or a newer horsies"],
        )


class Pipeline(psycopg.AsyncPipeline):
    """Ends with its Sync.

    psycopg's own sends a Flush after it. A transaction pooler that has taken the server back by then takes that for the
    beginning of another transaction, and lends a server that nothing makes it take back.
    """

    def _exit_gen(self) -> PQGen[None]:
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)


# psycopg warns of what a failure in a pipeline entails; the failure itself is raised.
logging.getLogger("psycopg").addFilter(lambda record: not any(isinstance(arg, Pipeline) for arg in record.args or ()))
