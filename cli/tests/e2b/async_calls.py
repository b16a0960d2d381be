"""The asynchronous SDK of E2B for Python: many sandboxes at a time."""

import asyncio

from e2b import AsyncSandbox


async def one(number: int) -> None:
    sandbox = await AsyncSandbox.create()
    await sandbox.files.write("/tmp/number", str(number))
    results = await asyncio.gather(
        *(sandbox.commands.run(f"cat /tmp/number; echo {i}") for i in range(5))
    )
    for i, result in enumerate(results):
        assert result.stdout == f"{number}{i}\n", result
    assert await sandbox.kill()


async def main() -> None:
    await asyncio.gather(*(one(number) for number in range(4)))
    paginator = AsyncSandbox.list()
    assert await paginator.next_items() == []


asyncio.run(main())
print("all calls are served")
