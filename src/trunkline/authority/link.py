"""The asking side of one connection with an authority: requests out, answers in (docs/spec/authority.md section 6)."""

from typing import Final

from msgspec.structs import replace

from trunkline.authority.codec import answers, encode
from trunkline.authority.messages import (
    PREAMBLE,
    Answer,
    AskHead,
    AskRoot,
    Denied,
    Fetch,
    Found,
    Get,
    HeadIs,
    History,
    Issue,
    Issued,
    List,
    Listing,
    Request,
    RootIs,
    Statements,
    Stored,
    Submit,
)
from trunkline.errors import (
    BadSignature,
    DeniedError,
    LinkClosed,
    MalformedMessage,
    NameTaken,
    NotAllowed,
    NotWritable,
    Revoked,
    TooMany,
    TrunklineError,
    TrustError,
)

MAX_UNANSWERED: Final = 32
"""Most requests of ours that wait at a time."""

ANSWERS: Final[dict[type[Request], type[Answer]]] = {
    AskRoot: RootIs,
    AskHead: HeadIs,
    Get: Found,
    Submit: Stored,
    Issue: Issued,
    List: Listing,
    History: Statements,
    Fetch: Statements,
}
"""What may answer what; Denied may answer anything."""

_TEXTS: Final[tuple[type[TrunklineError], ...]] = (NotAllowed, NotWritable, BadSignature, Revoked)


class AuthorityLink:
    """One connection, of the Link shape. It has no deadlines of its own: the driver gives each question one."""

    def __init__(self) -> None:
        self._out = bytearray(PREAMBLE)
        self._inbound = answers()
        self._waiting: dict[int, Request] = {}
        self._asked = 0

    @property
    def waiting(self) -> int:
        """How many requests are not answered yet."""
        return len(self._waiting)

    def send_request(self, request: Request) -> int:
        """Ask; its ``query`` is chosen here. Return that number."""
        assert len(self._waiting) < MAX_UNANSWERED, "the driver asks little at a time"
        self._asked += 1
        numbered = replace(request, query=self._asked)
        self._waiting[self._asked] = numbered
        self._out += encode(numbered)
        return self._asked

    def data_to_send(self) -> bytes:
        """Return the bytes that are to go out, once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take the next bytes; afterwards drain `next_answer`."""
        self._inbound.receive_data(data)

    def receive_eof(self) -> None:
        """Take note that no more comes.

        Raises:
            LinkClosed: something is not answered.
        """
        if self._waiting:
            raise LinkClosed("the authority closed the connection before it had answered")

    def next_answer(self) -> tuple[Request, Answer] | None:
        """Return the next answer with what was asked; None if it is not there whole.

        Raises:
            RemoteError: what came is no answer to anything.
        """
        answer = self._inbound.next_message()
        if answer is None:
            return None
        request = self._waiting.pop(answer.query, None)
        if request is None:
            raise MalformedMessage(f"{type(answer).__name__} answers the question {answer.query}, which nobody asked")
        if not isinstance(answer, Denied | ANSWERS[type(request)]):
            raise MalformedMessage(f"{type(answer).__name__} is no answer to {type(request).__name__}")
        return request, answer


def denial(answer: Denied, user: str = "") -> TrunklineError:
    """Return the error that an authority's refusal stands for.

    Args:
        user: whom the request was about.
    """
    if answer.code == NameTaken.code:
        return NameTaken(user, answer.text.partition(" is taken: ")[2])
    if answer.code == TooMany.code:
        return NotAllowed(answer.text)
    for kind in _TEXTS:
        if answer.code == getattr(kind, "code", 0):
            return kind(answer.text)
    return (TrustError if answer.code >= TrustError.code else DeniedError)(f"the authority refused: {answer.text}")
