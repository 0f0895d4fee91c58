import signal
import threading
from collections.abc import Iterator

import pytest

from trunkline.drivers import interrupts
from trunkline.drivers.interrupts import Turn


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def strike() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_until_the_turn_is_over():
    done = []
    turn = Turn()
    with pytest.raises(KeyboardInterrupt), turn:
        strike()
        done.append(1)
    assert done == [1]
    with turn:  # the lock is free, and the interrupt is over
        pass


def test_the_error_of_a_turn_is_not_replaced_by_its_own_interrupt():
    with pytest.raises(KeyboardInterrupt) as caught, Turn():
        strike()
        raise KeyboardInterrupt("mine")
    assert caught.value.args == ("mine",)


def test_an_interrupt_that_waits_is_raised_in_the_window():
    turn = Turn()
    with turn:
        strike()
        with pytest.raises(KeyboardInterrupt):
            try:
                turn.open()
            finally:
                turn.shut()
        strike_again = []
        strike_again.append(1)


def test_an_interrupt_in_the_window_is_raised_at_once():
    turn = Turn()
    with turn, pytest.raises(KeyboardInterrupt):
        try:
            turn.open()
            strike()
            pytest.fail("it was not raised")
        finally:
            turn.shut()


def test_another_thread_has_no_shield():
    turn = Turn()
    handlers = []

    def run() -> None:
        with turn:
            handlers.append(signal.getsignal(signal.SIGINT))
            turn.open()
            turn.shut()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_a_handler_of_the_programs_stays():
    struck = []
    old = signal.signal(signal.SIGINT, lambda number, frame: struck.append(number))
    try:
        with Turn():
            strike()
            assert struck == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, old)


def test_another_signal_does_not_leave_the_lock_free():
    turn = Turn()
    taken = threading.Event()

    def hold() -> None:
        with turn:
            taken.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            raised.wait()

    raised = threading.Event()

    def handler(number: int, frame: object) -> None:
        raised.set()
        raise TimeoutError

    old = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=hold)
    try:
        with turn:
            with pytest.raises(TimeoutError):
                try:
                    turn.open()
                    thread.start()
                    taken.wait()
                finally:
                    turn.shut()
            assert turn._lock.locked()
    finally:
        signal.signal(signal.SIGUSR1, old)
        thread.join()


def test_after_a_fork_the_handler_of_another_threads_turn_is_undone():
    with Turn():
        assert signal.getsignal(signal.SIGINT) is interrupts._interrupted
        interrupts.forked()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupts.forked()
