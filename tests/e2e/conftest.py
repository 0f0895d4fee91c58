"""What end-to-end tests share. Mark those that use `lan` with e2e and requires_root_netns."""

from collections.abc import Iterator

import pytest

from tests.e2e.hosts import Lan


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A network of the test's own; hosts are made as they are asked for."""
    with Lan() as lan:
        yield lan
