"""What all tests share: how hard Hypothesis tries, what a machine must have, and no leaks."""

import logging
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.e2e.namespaces import new_namespace
from tests.leaks import no_leaks
from tests.programs import lacks

# No deadline in any profile: a test that fails because the machine is busy says nothing.
_BUSY = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("fast", max_examples=50, deadline=None, suppress_health_check=_BUSY)
hypothesis.settings.register_profile(
    # The same examples at each run: a red CI is red for everybody, and by hand too.
    "ci",
    max_examples=200,
    deadline=None,
    suppress_health_check=_BUSY,
    derandomize=True,
    database=None,
)
hypothesis.settings.register_profile("deep", max_examples=20_000, deadline=None, suppress_health_check=_BUSY)
hypothesis.settings.load_profile(os.environ.get("TRUNKLINE_HYPOTHESIS") or ("ci" if os.environ.get("CI") else "fast"))


def lacks_namespaces() -> str | None:
    """Return why network namespaces can't be made here, None if they can."""
    missing = lacks("ip") or lacks("bridge")
    if missing:
        return missing
    try:
        os.close(new_namespace())
    except OSError as error:
        return f"network namespaces need root (CAP_SYS_ADMIN): run the tests as root ({error})"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine can't run, and say what to install; in CI, where all is installed, fail."""
    reasons = [lacks(name) for marker in item.iter_markers("requires_program") for name in marker.args]
    if item.get_closest_marker("requires_root_netns"):
        reasons.append(lacks_namespaces())
    for reason in filter(None, reasons):
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """Undo what a command run inside the tests' process does to the logger: the next test would log every message."""
    logger = logging.getLogger("trunkline")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]
    logger.propagate = before[2]


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an e2e test that leaks descriptors or processes.

    Being automatic, it is set up before a test's other fixtures, and so looks after they are torn down.
    """
    if request.node.get_closest_marker("e2e") is None:
        yield
        return
    with no_leaks():
        yield
