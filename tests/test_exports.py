import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trunkline
from trunkline import errors


def test_all_is_sorted_and_there():
    assert trunkline.__all__ == sorted(trunkline.__all__)
    assert all(hasattr(trunkline, name) for name in trunkline.__all__)


def test_what_types_see_is_what_there_is():
    tree = ast.parse(Path(trunkline.__file__).read_text())
    lazy = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {f"{node.module}.{alias.name}" for node in lazy.body for alias in node.names}
    assert seen == {f"{module}.{name}" for module, names in trunkline._WHERE.items() for name in names}
    assert {name.rpartition(".")[2] for name in seen} == set(trunkline.__all__) <= set(dir(trunkline))


def test_nothing_else_is_there():
    with pytest.raises(AttributeError, match="no attribute 'meat'"):
        trunkline.meat  # noqa: B018


def test_every_error_that_a_caller_may_catch_is_exported():
    wire_only = {
        "FrameTooLarge",
        "MalformedMessage",
        "MessageNotAllowed",
        "NotTrunkline",
        "SilentPeer",
        "UnknownMessage",
        "VersionMismatch",
    }
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert tree - wire_only == {name for name in trunkline.__all__ if name in tree}


def test_the_blocking_face_does_not_import_asyncio():
    code = "import sys, trunkline; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_asynchronous_face_is_a_submodule():
    code = "from trunkline import aio; assert aio.meet"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "first", ["trunkline.meet", "trunkline.Address", "from trunkline.names import Peer", "from trunkline import aio"]
)
def test_names_is_the_function_whatever_comes_first(first):
    code = f"import trunkline; {first}; assert callable(trunkline.names); from trunkline.names import Peer"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
