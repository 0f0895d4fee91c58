"""The check that guards the end-to-end tests must itself see what it is for."""

import os
import subprocess

import pytest

from tests.leaks import no_leaks


def test_quiet_when_all_is_closed() -> None:
    with no_leaks(patience=0):
        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)
        subprocess.run(["true"], check=True)


def test_sees_an_open_descriptor() -> None:
    with pytest.raises(AssertionError, match=r"left behind: descriptor \d+: pipe:.*; descriptor"), no_leaks(patience=0):
        ends = os.pipe()
    for end in ends:
        os.close(end)


def test_sees_a_child_even_a_zombie() -> None:
    with pytest.raises(AssertionError, match=r"left behind: process \d+: (sleep|python)"), no_leaks(patience=0):
        child = subprocess.Popen(["sleep", "1000"])
    child.kill()
    with pytest.raises(AssertionError, match=r"left behind: process"), no_leaks(patience=0):
        zombie = subprocess.Popen(["true"])
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    child.wait()
    zombie.wait()
