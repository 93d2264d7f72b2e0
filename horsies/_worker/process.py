"""What happens in a process that runs tasks with `run_in="process"`.

It belongs to one worker, which sends it requests and reads one answer to each: `Load` says what is to be run and is
over when the module has been imported, `Call` runs it. A thread of its own reads the requests, so that the end of the
worker is noticed while user code runs; the process then kills its whole group. The pipes are moved away from the
standard streams, because what user code starts inherits those: input is empty, output goes where errors go.
"""

from __future__ import annotations

import os
import pickle
import queue
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

from .._core.codes import TaskErrorCode
from .._core.errors import HorsiesError, TaskError
from .._core.result import Err, Ok
from .._task.declare import Task
from .._task.place import Address
from .calling import as_result
from .causes import cause_of, unhandled

HEAD = 8
"""Bytes before each message that hold its length."""
MAIN_ALIAS = "__mp_main__"
"""What a program is called where it is imported and not run, as in multiprocessing."""

_is_loading = False


@dataclass(frozen=True, slots=True)
class Main:
    """How the worker's `__main__` came to be: by `python -m name`, else from the file `path`."""

    name: str | None
    path: str | None
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Import what `address` names, and `main` first when it is there."""

    address: Address
    main: Main | None


@dataclass(frozen=True, slots=True)
class Call:
    """Call what was loaded last with the pickled pair of positional and keyword arguments."""

    arguments: bytes


Answer = Ok[Any] | Err[TaskError]


def framed(message: bytes) -> bytes:
    """`message` as it goes through a pipe."""
    return len(message).to_bytes(HEAD) + message


def refuse_while_loading() -> None:
    """Keep a program without a guard from running itself anew in each of its processes.

    Raises:
        HorsiesError: HRS-211 in a process that is importing a task's module.
    """
    if _is_loading:
        raise HorsiesError(
            "HRS-211",
            "a module opens a Runtime while a process that is to run one of its tasks imports it",
            ['put what the program does under `if __name__ == "__main__":`'],
        )


def serve() -> None:
    """Answer requests until killed, or until the worker is gone."""
    requests, answers = _take_pipes()
    _leave_stopping_to_the_worker()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), name="horsies requests", daemon=True).start()
    fn: Callable[..., Any] = _nothing_loaded
    while True:
        answer: Answer
        match pickle.loads(inbox.get()):
            case Load() as load:
                loaded = _load(load)
                fn, answer = loaded if isinstance(loaded, tuple) else (_nothing_loaded, loaded)
            case Call(arguments):
                answer = _call(fn, arguments)
        try:
            answers.write(framed(_pickled(answer)))
            answers.flush()
        except BrokenPipeError:
            return


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _leave_stopping_to_the_worker() -> None:
    """A service manager sends SIGTERM to the worker and to this process; the worker drains, so this one goes on.

    A handler and not SIG_IGN, which programs that user code starts would inherit; forked children get the defaults.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def restore() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=restore)


def _listen(requests: BinaryIO, inbox: queue.SimpleQueue[bytes]) -> None:
    while len(head := requests.read(HEAD)) == HEAD:
        inbox.put(requests.read(int.from_bytes(head)))
    os.killpg(os.getpid(), signal.SIGKILL)


def _nothing_loaded() -> None:
    raise LookupError("no task was loaded")


def _load(load: Load) -> tuple[Callable[..., Any], Ok[None]] | Err[TaskError]:
    global _is_loading
    _is_loading = True
    try:
        if load.main is not None and MAIN_ALIAS not in sys.modules:
            _import_main(load.main)
        found = load.address.find()
    except BaseException as error:  # a program without a guard may do anything, SystemExit included
        cause = cause_of(error)
        why = f"the process that was to run the task cannot import it from {load.address.module!r}"
        message = f"{why}: {cause.type}: {cause.message}"
        return Err(TaskError.caused_by(TaskErrorCode.WORKER_RESOLUTION_ERROR, message, cause))
    finally:
        _is_loading = False
    return (found.fn if isinstance(found, Task) else found), Ok(None)


def _import_main(main: Main) -> None:
    sys.argv = list(main.argv)
    if main.name is not None:
        content = runpy.run_module(main.name, run_name=MAIN_ALIAS, alter_sys=True)
    else:
        content = runpy.run_path(main.path or "", run_name=MAIN_ALIAS)
    module = ModuleType(MAIN_ALIAS)
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules[MAIN_ALIAS] = module


def _call(fn: Callable[..., Any], arguments: bytes) -> Answer:
    try:
        args, kwargs = pickle.loads(arguments)
    except Exception as error:  # unpickling runs the classes of the values
        why = "the arguments cannot be unpickled in the process that was to run the task"
        return Err(TaskError.caused_by(TaskErrorCode.WORKER_SERIALIZATION_ERROR, why, cause_of(error)))
    try:
        return as_result(fn(*args, **kwargs))
    except TaskError as error:
        return Err(error)
    except BaseException as error:  # the process is there for the next task, whatever this one raises
        return unhandled(error)


def _pickled(answer: Answer) -> bytes:
    if isinstance(answer, Err) and type(answer.error) is not TaskError:
        answer = Err(TaskError(answer.error.code, answer.error.message, data=answer.error.data))
    try:
        return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # pickling runs the class of the value
        why = "what the task returned cannot be pickled, and so cannot leave its process"
        return pickle.dumps(Err(TaskError.caused_by(TaskErrorCode.RETURN_TYPE_MISMATCH, why, cause_of(error))))
