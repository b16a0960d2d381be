"""The asynchronous SDK of E2B for Python of the first major version: many sandboxes at a time."""

import asyncio

from e2b import AsyncSandbox


async def one(number: int) -> None:
    sandbox = await AsyncSandbox.create(metadata={"number": str(number)})
    await sandbox.files.write("/tmp/number", str(number))
    results = await asyncio.gather(
        *(sandbox.commands.run(f"cat /tmp/number; echo {i}") for i in range(5))
    )
    for i, result in enumerate(results):
        assert result.stdout == f"{number}{i}\n", result
    events = asyncio.Queue()
    watch = await sandbox.files.watch_dir("/tmp", on_event=events.put_nowait)
    await sandbox.files.write("/tmp/seen", "1")
    assert (await asyncio.wait_for(events.get(), 60)).name == "seen"
    await watch.stop()
    same = await AsyncSandbox.connect(sandbox.sandbox_id)
    assert await same.files.read("/tmp/number") == str(number)
    assert await same.is_running()
    assert (await same.get_info()).metadata == {"number": str(number)}
    await same.kill()
    assert not await sandbox.is_running()


async def main() -> None:
    await asyncio.gather(*(one(number) for number in range(4)))
    assert await AsyncSandbox.list() == []


asyncio.run(main())
print("all calls are served")
