"""The signals that stop a process of the command line, which are for that process alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_heeded: tuple[signal.Signals, ...] = ()


@contextmanager
def stopping_signals() -> Iterator[AsyncIterator[signal.Signals]]:
    """The signals that come while this is entered. SIGHUP is left alone if it is ignored, as under `nohup`.

    A process that user code forks meanwhile gets the default handlers. It would share the descriptor that wakes the
    event loop of this one, so that a signal to the fork would stop this process and not the fork.
    """
    global _heeded
    _heeded = tuple(number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN)
    try:
        with anyio.open_signal_receiver(*_heeded) as signals:
            yield signals
    finally:
        _heeded = ()


def _hold_back() -> None:
    _before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _heeded)


def _let_come() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before.mask)


def _forget() -> None:
    if _heeded:
        signal.set_wakeup_fd(-1)
    for number in _heeded:
        signal.signal(number, signal.SIG_DFL)
    # An interrupt that has come already would be raised here, where nothing can catch it, and be lost.
    if signal.SIGINT in _heeded and signal.SIGINT not in signal.sigpending():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_come()


_before = threading.local()
"""What the forking thread held back before: a signal to the fork waits until the fork has its own handlers."""
os.register_at_fork(before=_hold_back, after_in_parent=_let_come, after_in_child=_forget)
