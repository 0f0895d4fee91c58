import asyncio
import os
import signal

from trunkline.drivers.signals_aio import until_told


def test_a_signal_tells_and_is_the_program_s_own_again_afterwards():
    async def main() -> None:
        told = asyncio.Event()
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        await until_told(told, [signal.SIGUSR1])
        assert told.is_set()

    before = signal.getsignal(signal.SIGUSR1)
    asyncio.run(main())
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_owner_may_have_told_before():
    async def main() -> None:
        told = asyncio.Event()
        told.set()
        await until_told(told, [signal.SIGUSR1])

    asyncio.run(main())
