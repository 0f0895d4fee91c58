import signal
import subprocess
import sys

import pytest

from trunkline.cli import main
from trunkline.cli.common import Common, columns, hoist, run
from trunkline.errors import InvalidAddress
from trunkline.names import Address


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], []),
        (["meet", "a", "b", "-v"], ["-v", "meet", "a", "b"]),
        (["status", "--home", "x", "--json"], ["--home", "x", "status", "--json"]),
        (["status", "--home=x"], ["--home=x", "status"]),
        (["status", "--home"], ["status", "--home"]),
        (["send", "--", "--debug", "a", "b"], ["send", "--", "--debug", "a", "b"]),
        (["meet", "a", "b", "--exec", "cat", "-v", "x y"], ["meet", "a", "b", "--exec", "cat -v 'x y'"]),
        (["meet", "a", "b", "--exec"], ["meet", "a", "b", "--exec"]),
    ],
)
def test_hoist(given, wanted):
    assert hoist(given) == wanted


def test_columns():
    assert columns(("A", "LONGER"), [("xyz", "1"), ("", "")]) == "A    LONGER\nxyz  1\n"


def test_servers():
    assert Common().servers() is None
    assert Common(switchboards="a:1, b,").servers() == (Address("a", 1), Address("b", 7117))
    with pytest.raises(InvalidAddress):
        Common(switchboards="a:x").servers()


def test_sigterm_interrupts():
    async def main() -> None:
        import asyncio

        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run(main())


def test_what_the_coroutine_returns_or_raises_comes_out():
    async def one() -> int:
        return 1

    async def cancelled() -> None:
        import asyncio

        raise asyncio.CancelledError

    assert run(one()) == 1
    with pytest.raises(BaseException) as caught:
        run(cancelled())
    assert type(caught.value).__name__ == "CancelledError"


def test_the_traceback_is_for_those_who_ask(monkeypatch, tmp_path):
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
    with pytest.raises(InvalidAddress):
        main(["status", "--debug", "--switchboards", ":"])


@pytest.mark.e2e
def test_a_reader_that_goes_away_is_no_error():
    script = f"{sys.executable} -m trunkline simulate | :"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert result.stderr == ""
