"""The command ``trunkline``: one file per command; `main` is where every error becomes its sentence.

Nothing is imported before it is needed: ``trunkline --help`` has to be quick.
"""

import sys
from collections.abc import Sequence

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done, a stated error, wrong usage, interrupted by the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return its exit code.

    Every error that we know becomes one sentence on stderr; ``--debug`` shows the traceback instead.
    """
    from trunkline.cli.common import Common

    common = Common()
    try:
        return _run(sys.argv[1:] if argv is None else argv, common)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED  # whoever read our output has gone: there is nobody to tell
    except BaseException as error:
        from trunkline.errors import TrunklineError

        known = _known(error)
        if common.debug or known is None:
            raise
        if not isinstance(known, TrunklineError | OSError):
            raise
        common.say(f"trunkline: {_sentence(known)}")
        return FAILED


def _run(argv: Sequence[str], common: object) -> int:
    from trunkline.cli.app import app
    from trunkline.cli.common import hoist

    try:
        app(args=hoist(argv), prog_name="trunkline", obj=common)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE if end.code is None else FAILED
    finally:
        _flush()
    return DONE


def _flush() -> None:
    # Here rather than at the interpreter's end, where a reader that went away makes it complain.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _known(error: BaseException) -> BaseException | None:
    """Return the first failure inside groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else None


def _sentence(error: BaseException) -> str:
    from trunkline.errors import TrunklineError

    if isinstance(error, OSError) and not isinstance(error, TrunklineError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror.lower()}{where}"
    return str(error) or type(error).__name__
