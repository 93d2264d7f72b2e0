"""What happens in a process that runs tasks with `run_in="process"`.

It belongs to one worker, which sends it requests and reads one answer to each: `Load` says what is to be run and is
over when the module has been imported, `Call` runs it. The pipes are moved away from the standard streams, because what
user code starts inherits those: input is empty, output goes where errors go.

User code can write to the pipe of the answers. So an answer is msgpack of plain builtins, never a pickle, which could
run code in the worker; and it repeats the number of its request, so that the worker takes no other message for it.

When the worker ends, the whole process group is killed. On Linux the kernel does it, when the worker's end of the
lifeline closes, even while C code holds the GIL. Elsewhere a thread does, which reads the requests and needs the GIL.
"""

from __future__ import annotations

import fcntl
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

import msgspec

from ..._core.codes import TaskErrorCode
from ..._core.errors import HorsiesError, TaskError
from ..._core.result import Err, Ok
from ..._declare.context import describe_task
from ..._declare.placement import Address
from ..._declare.task import Task
from ..._payload.codec import Codec, plain_codec
from ..._payload.lowering import UNDECODABLE
from ..._payload.stored_result import error_fields, error_from
from ...abc import Plain
from .causes import cause_of, unhandled, unreadable
from .invoke import as_result, end_fork

MAGIC = b"hors"
HEAD = len(MAGIC) + 8
"""Bytes before each message: `MAGIC` and its length."""
LONGEST = 2**30
"""Bytes of the longest answer; a database stores none that is longer."""
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
    """Import what `address` names, which is a task of that name, and `main` first when it is there."""

    task: str
    address: Address
    main: Main | None


@dataclass(frozen=True, slots=True)
class Call:
    """Call what was loaded last with the pickled pair of positional and keyword arguments."""

    arguments: bytes


Answer = Ok[Any] | Err[TaskError]
"""A value in it is plain builtins, where it is not None."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def framed(message: bytes) -> bytes:
    """`message` as it goes through a pipe."""
    return MAGIC + len(message).to_bytes(8) + message


def length_of(head: bytes) -> int:
    """The length of the answer that follows `head`; 0 if no answer begins like this."""
    length = int.from_bytes(head[len(MAGIC) :])
    return length if head.startswith(MAGIC) and length <= LONGEST else 0


def answer_of(message: bytes, number: int) -> Answer:
    """The answer to request `number`. Raises: ValueError: `message` is none."""
    try:
        answered, is_ok, value = _decoder.decode(message)
        if (answered, type(is_ok)) == (number, bool):
            return Ok(value) if is_ok else Err(error_from(value))
    except UNDECODABLE as error:
        raise ValueError("it is no answer") from error
    raise ValueError("it is the answer to another request")


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


def serve(lifeline: int) -> None:
    """Answer requests until killed, or until the worker is gone."""
    _die_with_the_worker(lifeline)
    requests, answers = _take_pipes()
    _leave_stopping_to_the_worker()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), name="horsies requests", daemon=True).start()
    loaded = _Loaded("", _nothing_loaded, None)
    while True:
        number, request = pickle.loads(inbox.get())
        answer: Answer
        match request:
            case Load() as load:
                found = _load(load)
                loaded, answer = (found, Ok(None)) if isinstance(found, _Loaded) else (loaded, found)
            case Call(arguments):
                answer = _call(loaded, arguments)
        try:
            answers.write(framed(_encoder.encode((number, *_fields_of(loaded.task, answer)))))
            answers.flush()
        except BrokenPipeError:
            return


def _die_with_the_worker(lifeline: int) -> None:
    """Have the kernel kill this process group when the worker's end of `lifeline`, its only writer, closes."""
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _leave_stopping_to_the_worker() -> None:
    """A service manager sends its signals to the worker and to this process; the worker drains, so this one goes on.

    A handler and not SIG_IGN, which programs that user code starts would inherit; forked children get the defaults.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    def restore() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    os.register_at_fork(after_in_child=restore)


def _listen(requests: BinaryIO, inbox: queue.SimpleQueue[bytes]) -> None:
    while len(head := requests.read(HEAD)) == HEAD:
        inbox.put(requests.read(int.from_bytes(head[len(MAGIC) :])))
    os.killpg(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A task that can be called, and the codec of its result."""

    task: str
    fn: Callable[..., Any]
    codec: Codec[Any] | None


def _nothing_loaded() -> None:
    raise LookupError("no task was loaded")


def _load(load: Load) -> _Loaded | Err[TaskError]:
    global _is_loading
    _is_loading = True
    try:
        if load.main is not None and MAIN_ALIAS not in sys.modules:
            _import_main(load.main)
        found = load.address.find()
        signature = found.signature if isinstance(found, Task) else describe_task(found)
        fn = found.fn if isinstance(found, Task) else found
        return _Loaded(load.task, fn, signature.return_codec)
    except BaseException as error:  # a program without a guard may do anything, SystemExit included
        cause = cause_of(error)
        why = f"the process that was to run the task cannot import it from {load.address.module!r}"
        message = f"{why}: {cause.type}: {cause.message}"
        return Err(TaskError.caused_by(TaskErrorCode.WORKER_RESOLUTION_ERROR, message, cause))
    finally:
        _is_loading = False


def _import_main(main: Main) -> None:
    sys.argv = list(main.argv)
    if main.name is not None:
        content = runpy.run_module(main.name, run_name=MAIN_ALIAS, alter_sys=True)
    else:
        content = runpy.run_path(main.path or "", run_name=MAIN_ALIAS)
    module = ModuleType(MAIN_ALIAS)
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules[MAIN_ALIAS] = module


def _call(loaded: _Loaded, arguments: bytes) -> Answer:
    try:
        args, kwargs = pickle.loads(arguments)
    except BaseException as error:  # unpickling runs the classes of the values
        why = "the arguments cannot be unpickled in the process that was to run the task"
        return Err(TaskError.caused_by(TaskErrorCode.WORKER_SERIALIZATION_ERROR, why, cause_of(error)))
    pid = os.getpid()
    try:
        result = as_result(loaded.fn(*args, **kwargs))
    except TaskError as error:
        return Err(error)
    except BaseException as error:  # the process is there for the next task, whatever this one raises
        end_fork(pid, error)
        return unhandled(error)
    finally:
        end_fork(pid)
    if isinstance(result, Err):
        return result
    try:
        return Ok((loaded.codec or plain_codec()).lower(result.value))
    except BaseException as error:  # so do the classes of a result
        return unreadable(loaded.task, error)


def _fields_of(task: str, answer: Answer) -> tuple[bool, Plain]:
    """`answer` as plain builtins: whether it is a value, and that, or what the error carries."""
    if isinstance(answer, Ok):
        return True, answer.value
    try:
        return False, error_fields(answer.error)
    except BaseException as error:  # so do the classes of an error
        return False, error_fields(unreadable(task, error).error)
