"""Fixtures for the client's scripts."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.playbook import Playbook
from tests.switchboard import clientside
from trunkline.names import Address


@pytest.fixture
def script() -> Iterator[Callable[..., Playbook]]:
    """Make a script for a client that knows the given servers (s1 if none); its last line is checked at the end."""
    made: list[Playbook] = []

    def make(*servers: Address, **settings: Any) -> Playbook:
        made.append(clientside.script(*servers, **settings))
        return made[-1]

    yield make
    for play in made:
        play.end()


@pytest.fixture
def play(script: Callable[..., Playbook]) -> Playbook:
    """A script for a client that knows the server s1."""
    return script()
