"""Questions to the main server, until they are answered (docs/spec/switchboard.md section 8).

Callers number their questions as they like, and the client asks some of its own (Explain, before a deadline), so each
gets a number of ours on the wire. A question whose server is lost is asked again of the next.
"""

from typing import Any, Final

import msgspec

from trunkline.errors import NoSwitchboard
from trunkline.switchboard.context import Context, Timer
from trunkline.switchboard.events import Answered
from trunkline.switchboard.uplinks import Uplink, Uplinks
from trunkline.wire.messages import AskStatus, Explain, Explanation, ListNames, NameList, ServerStatus

Question = Explain | ListNames | AskStatus
Answer = Explanation | NameList | ServerStatus
_ANSWERED_BY: Final[dict[type[Question], type[Answer]]] = {
    Explain: Explanation,
    ListNames: NameList,
    AskStatus: ServerStatus,
}


class Open(msgspec.Struct, frozen=True, gc=False):
    """A question without an answer."""

    message: Question
    """With our number in it."""
    number: int
    """The caller's number; not used if the question is the client's own."""
    rid: bytes
    """The request that wants it, if the question is the client's own; else empty."""
    since: float
    conn: int
    """The server that was asked; 0 if none was yet."""


class Questions:
    """The open questions, by our numbers."""

    __slots__ = ("_count", "_ctx", "_uplinks", "open")

    def __init__(self, ctx: Context, uplinks: Uplinks) -> None:
        self._ctx = ctx
        self._uplinks = uplinks
        self._count = 0
        self.open: dict[int, Open] = {}

    def ask(self, message: Question, now: float, *, deadline: float | None = None, rid: bytes = b"") -> int:
        """Ask as soon as there is a main server. Return our number."""
        self._count += 1
        number = message.query
        question = Open(msgspec.structs.replace(message, query=self._count), number, rid, now, 0)
        self.open[self._count] = question
        if deadline is not None:
            self._ctx.timers.set((Timer.QUESTION, self._count), deadline)
        if self._uplinks.main is not None:
            self._send(question, self._uplinks.main, now)
        return self._count

    def ask_all(self, uplink: Uplink, now: float) -> None:
        """There is a main server: ask what was not asked."""
        for question in list(self.open.values()):
            if not question.conn:
                self._send(question, uplink, now)

    def answered(self, conn: int, answer: Answer) -> bytes:
        """An answer came. Return the rid if the question was the client's own."""
        question = self.open.get(answer.query)
        if question is None or question.conn != conn or type(answer) is not _ANSWERED_BY[type(question.message)]:
            return b""  # given up meanwhile, or nobody asked that
        self.forget(answer.query)
        if not question.rid:
            self._ctx.out.append(Answered(question.number, msgspec.structs.replace(answer, query=question.number)))
        return question.rid

    def lost(self, conn: int) -> None:
        """A server is lost: what it was asked goes to the next."""
        for number, question in self.open.items():
            if question.conn == conn:
                self.open[number] = msgspec.structs.replace(question, conn=0)

    def timer(self, number: int, now: float) -> None:
        """No answer came in time."""
        question = self.open[number]
        uplink = self._uplinks.links.get(question.conn)
        why = f"no answer to the question within {now - question.since:.3g} s"
        tried = self._uplinks.finder.tried if uplink is None else ((str(uplink.address), why),)
        self.fail(number, NoSwitchboard(tried))

    def fail_all(self, error: Exception) -> None:
        """No server can be had, or the client is closed."""
        for number in list(self.open):
            self.fail(number, error)

    def fail(self, number: int, error: Exception) -> None:
        """Give up one question."""
        question = self.open[number]
        self.forget(number)
        if not question.rid:
            self._ctx.out.append(Answered(question.number, error))

    def forget(self, number: int) -> None:
        """Nobody wants the answer any more."""
        if self.open.pop(number, None) is not None:
            self._ctx.timers.clear((Timer.QUESTION, number))

    def _send(self, question: Open, uplink: Uplink, now: float) -> None:
        self.open[question.message.query] = msgspec.structs.replace(question, conn=uplink.conn)
        self._uplinks.send(uplink, question.message, now)

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        return (self._count, tuple(self.open.values()))

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Become what `snapshot` was taken of."""
        self._count, questions = snapshot
        self.open = {question.message.query: question for question in questions}
