"""A worker process: a runtime, one worker in it, and the signals that stop it."""

from __future__ import annotations

import signal

import anyio

from horsies import Horsies, Runtime, Worker, WorkerConfig


async def serve(app: Horsies, config: WorkerConfig) -> bool:
    """Run a worker until a signal or until it is idle; whether a thread had to be left behind."""
    async with Runtime(app) as rt:
        worker = rt.start_worker(config)
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_at_signal, worker)
            await worker.wait_stopped()
            group.cancel_scope.cancel()
    return worker.statistics().abandoned > 0


async def _stop_at_signal(worker: Worker) -> None:
    """The first signal drains the worker, the second cancels its running tasks."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if not worker.is_draining:
                worker.drain_nowait()
            else:
                worker.cut_short()
