"""The asynchronous SDK of E2B for Python: many sandboxes at a time."""

import asyncio

from e2b import AsyncSandbox, TimeoutException


async def one(number: int) -> None:
    sandbox = await AsyncSandbox.create()
    await sandbox.files.write("/tmp/number", str(number))
    results = await asyncio.gather(
        *(sandbox.commands.run(f"cat /tmp/number; echo {i}") for i in range(5))
    )
    for i, result in enumerate(results):
        assert result.stdout == f"{number}{i}\n", result
    assert await sandbox.kill()


async def watched() -> None:
    sandbox = await AsyncSandbox.create()
    files = sandbox.files
    await files.make_dir("/tmp/watched")
    events, exits = asyncio.Queue(), asyncio.Queue()
    watch = await files.watch_dir(
        "/tmp/watched", on_event=events.put_nowait, on_exit=exits.put_nowait, recursive=True, timeout=0
    )
    await sandbox.commands.run("mkdir -p /tmp/watched/a/b && echo 1 > /tmp/watched/a/b/c")
    names = []
    while "a/b/c" not in names:
        names.append((await asyncio.wait_for(events.get(), 60)).name)
    assert names[0] == "a", names
    await watch.stop()
    assert await exits.get() is None
    # It ends with its directory, or its time.
    await files.watch_dir("/tmp/watched", on_event=events.put_nowait, on_exit=exits.put_nowait)
    await files.remove("/tmp/watched")
    assert await asyncio.wait_for(exits.get(), 60) is None
    await files.watch_dir("/tmp", on_event=events.put_nowait, on_exit=exits.put_nowait, timeout=1)
    assert isinstance(await asyncio.wait_for(exits.get(), 60), TimeoutException)
    assert await sandbox.kill()


async def main() -> None:
    await watched()
    await asyncio.gather(*(one(number) for number in range(4)))
    paginator = AsyncSandbox.list()
    assert await paginator.next_items() == []


asyncio.run(main())
print("all calls are served")
