"""A program whose application asks for the serializer of an installed package. Its arguments: event loop, URL."""

import sys

import anyio

from horsies import AppConfig, Horsies, Runtime, WorkerConfig

backend, url = sys.argv[1:]
app = Horsies(AppConfig.for_database_url(url, serializer="rot13"))


@app.task("greet")
async def greet(name: str) -> str:
    return f"hello {name}"


async def main() -> None:
    async with Runtime(app) as rt:
        handle = (await greet.handle(rt).send("world")).unwrap()
        await rt.run_worker(WorkerConfig(until_idle=True))
        print((await handle.get(timeout=10)).unwrap())
        row = await rt._engine.broker.reader.read(handle.task_id)
        assert row is not None
        assert row.result is not None
        print("stored", b"uryyb jbeyq" in row.result, b"jbeyq" in row.envelope)


anyio.run(main, backend=backend)
