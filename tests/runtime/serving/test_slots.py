import asyncio

import pytest

from ctx_runtime.errors import DeadlineError, OverloadError
from ctx_runtime.serving.slots import Slots


def test_turns_come_in_order_and_what_is_too_much_is_refused():
    async def run():
        slots, order, go = Slots(running=1, waiting=1, timeout_s=10), [], asyncio.Event()

        async def work(name):
            async with slots.turn():
                order.append(name)
                await go.wait()

        tasks = [asyncio.ensure_future(work("a")), asyncio.ensure_future(work("b"))]
        await asyncio.sleep(0.01)
        assert (order, slots.waiting) == (["a"], 1)
        with pytest.raises(OverloadError, match="1 prompts wait already"):
            async with slots.turn():
                pass
        go.set()
        await asyncio.gather(*tasks)
        assert (order, slots.waiting) == (["a", "b"], 0)

    asyncio.run(run())


def test_one_that_waits_too_long_or_leaves_gives_its_place_back():
    async def run():
        slots = Slots(running=1, waiting=1, timeout_s=0.05)
        async with slots.turn():
            with pytest.raises(DeadlineError, match=r"no turn came within 0\.05 s"):
                async with slots.turn():
                    pass
            leaver = asyncio.ensure_future(slots.turn().__aenter__())
            await asyncio.sleep(0.01)
            leaver.cancel()
            await asyncio.wait({leaver})
            assert slots.waiting == 0
        async with slots.turn():
            pass

    asyncio.run(run())
