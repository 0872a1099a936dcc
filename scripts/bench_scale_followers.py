"""Some agents' view of etcd, by the product's own store: when each of them had each change.

`python -m scripts.bench_scale_followers COUNT ENDPOINT...` prints a line when all of them have the listing; when its
standard input ends, one JSON object: by value of a change, when the last of them had it (`time.monotonic`).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing

from k8sovs import logs
from k8sovs.etcd import Etcd, EtcdConfig, Listing
from scripts.bench_scale_world import KEYS


async def main() -> None:
    """All followers, until nobody wants to know more."""
    logs.configure("warning")
    count, endpoints = int(sys.argv[1]), tuple(sys.argv[2:])
    last: dict[str, float] = {}
    standing = asyncio.Semaphore(0)

    async def follow(number: int) -> None:
        own = endpoints[number % len(endpoints) :] + endpoints[: number % len(endpoints)]
        async with (
            Etcd(EtcdConfig(own)) as etcd,
            aclosing(etcd.watch(KEYS.config, KEYS.subnets, KEYS.vnids)) as updates,
        ):
            async for update in updates:
                now = time.monotonic()
                if isinstance(update, Listing):
                    standing.release()
                else:
                    last.update((item.value.decode(), now) for item in update.puts)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(number)) for number in range(count)]
        for _ in tasks:
            await standing.acquire()
        print("standing", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
    print(json.dumps(last), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
