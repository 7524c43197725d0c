"""What a process of the sync bench is told on its standard input, one JSON object a line, and what it says back.

An object names its `op`; what is said back is found by a key of it. Only the standard library: peers import this too.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

Op = Callable[[dict[str, Any]], Awaitable[None]]


def now_us() -> int:
    """Microseconds of a clock that all processes of the machine share."""
    return time.monotonic_ns() // 1_000


def say(**said: Any) -> None:
    print(json.dumps(said), flush=True)


async def follow(ops: Mapping[str, Op]) -> None:
    """Does what it is told, one thing after the other, until nobody is there any more."""
    async for order in _orders():
        await ops[order["op"]](order)


async def _orders() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield json.loads(line)


async def paced(order: Mapping[str, Any], write: Callable[[int], Awaitable[None]]) -> None:
    """Calls `write(i)` so many times, at an even rate."""
    began, gap = now_us(), 1e6 / order["rate"]
    for i in range(order["n"]):
        deadline = began + i * gap
        await asyncio.sleep(max(0.0, deadline - now_us()) / 1e6)
        await write(i)
