"""Questions over TLS: who is asked in which order, who is believed to be an authority, and what silence costs."""

import contextlib
import socket
import threading

import pytest
from msgspec.structs import replace

from tests.realmkit import Realm, ScriptedAuthority
from trunkline.authority.messages import AskHead, AskRoot, Denied, HeadIs, RootIs
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_client import AuthorityClient, fetch_root
from trunkline.errors import (
    BadProof,
    ClosedError,
    ForkedHistory,
    NoAuthority,
    NotAllowed,
    NotWritable,
    TrustError,
)
from trunkline.names import Address


@pytest.fixture(scope="module")
def realm():
    return Realm()


def script(realm):
    def answer(request):
        match request:
            case AskRoot():
                return RootIs(request.query, realm.name, realm.root, (realm.issuer.authority.certificate,))
            case AskHead():
                return replace(realm.head_is(), query=request.query)
            case _:
                return None

    return answer


@contextlib.contextmanager
def server(realm, user="authority/main", said=None, **credential):
    with ScriptedAuthority(realm, realm.credential(user, **credential), said or script(realm)) as made:
        yield made


def client(realm, *addresses):
    trust = Trust(realm.name, realm.root)

    def verify(leaf, chain):
        return trust.check_certificate(leaf, realm.wall, chain)

    return AuthorityClient(realm.root, [Address.parse(each) for each in addresses], verify)


def take(answers, first_hand):
    return answers, first_hand


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_several_questions_at_once_in_order(realm):
    with server(realm) as live:
        answers, first_hand = client(realm, live.address).ask([AskHead(0), AskRoot(0)], take)
    assert [type(answer) for _, answer in answers] == [HeadIs, RootIs]
    assert [type(asked) for asked, _ in answers] == [AskHead, AskRoot]
    assert first_hand


def test_a_replica_is_asked_too_and_is_not_the_authority(realm):
    with server(realm, "ben") as replica:
        _, first_hand = client(realm, closed_port(), replica.address).ask([AskHead(0)], take)
    assert not first_hand


def test_whoever_answered_last_is_asked_first(realm):
    with server(realm) as one, server(realm) as two:
        dead = closed_port()
        asker = client(realm, dead, one.address, two.address)
        asker.ask([AskHead(0)], take)
        asker.ask([AskHead(0)], take)
        assert (len(one.asked), len(two.asked)) == (2, 0)


def test_nobody_answers(realm):
    one, two = closed_port(), closed_port()
    with pytest.raises(NoAuthority) as caught:
        client(realm, one, two).ask([AskHead(0)], take)
    assert [address for address, _ in caught.value.tried] == [one, two]
    assert "Connection refused" in str(caught.value)
    with pytest.raises(NoAuthority, match="no authority is known"):
        client(realm).ask([AskHead(0)], take)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (lambda _: None, "closed the connection before it had answered"),
        (lambda _: b"\0\0\0\1\xc1", "malformed|Object missing|invalid|MessagePack"),
        (lambda _: b"\xff\xff\xff\xff", "exceeds the limit"),
        (lambda request: RootIs(request.query, "x", b"", ()), "is no answer to AskHead"),
    ],
)
def test_nonsense_is_no_answer_and_the_next_is_asked(realm, said, why):
    with server(realm, said=said) as bad, server(realm) as good:
        asker = client(realm, bad.address)
        with pytest.raises(NoAuthority, match=why):
            asker.ask([AskHead(0)], take)
        client(realm, bad.address, good.address).ask([AskHead(0)], take)
        assert good.asked


def test_impostors_get_no_question(realm):
    other = Realm("other.example")
    with server(other) as foreign, server(realm, not_after=realm.wall - 10, not_before=realm.wall - 20) as expired:
        with pytest.raises(NoAuthority, match="its certificate was refused: unable to get local issuer"):
            client(realm, foreign.address).ask([AskHead(0)], take)
        with pytest.raises(NoAuthority, match="its certificate was refused: certificate has expired"):
            client(realm, expired.address).ask([AskHead(0)], take)
        assert foreign.asked == expired.asked == []


class TestWhatTheTakerSays:
    def refused(self, realm, error, *others):
        def take_none(answers, first_hand):
            raise error

        with server(realm) as live:
            client(realm, live.address, *others).ask([AskHead(0)], take_none)

    def test_an_answer_that_does_not_hold_is_raised_if_nobody_has_a_better_one(self, realm):
        with pytest.raises(BadProof, match="made up"):
            self.refused(realm, BadProof("made up"), closed_port())

    def test_a_better_one_is_taken(self, realm):
        def picky(answers, first_hand):
            if not first_hand:
                raise BadProof("made up")
            return "good"

        with server(realm, "ben") as replica, server(realm) as live:
            assert client(realm, replica.address, live.address).ask([AskHead(0)], picky) == "good"

    def test_two_histories_end_it_at_once(self, realm):
        with server(realm) as never, pytest.raises(ForkedHistory):
            self.refused(realm, ForkedHistory("two"), never.address)
        assert never.asked == []

    def test_so_does_a_refusal(self, realm):
        with server(realm) as never, pytest.raises(NotAllowed):
            self.refused(realm, NotAllowed("no"), never.address)
        assert never.asked == []

    def test_replicas_that_can_not_write_are_passed_over(self, realm):
        with pytest.raises(NotWritable):
            self.refused(realm, NotWritable("ask the authority"))
        with pytest.raises(NoAuthority, match=r"ask the authority.*Connection refused"):
            self.refused(realm, NotWritable("ask the authority"), closed_port())
        with pytest.raises(BadProof):
            with server(realm) as one, server(realm) as two:
                errors = [NotWritable("ask another"), BadProof("made up")]

                def take_none(answers, first_hand):
                    raise errors.pop(0)

                client(realm, one.address, two.address).ask([AskHead(0)], take_none)


def test_silence_has_a_deadline(realm):
    quiet = threading.Event()
    with server(realm, said=lambda _: quiet.wait() and None) as mute:
        with pytest.raises(NoAuthority, match="did not answer in time"):
            client(realm, mute.address).ask([AskHead(0)], take, timeout=0.2)
        quiet.set()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # its backlog takes the connection, and nobody the handshake
        with pytest.raises(NoAuthority, match="did not answer in time"):
            client(realm, f"127.0.0.1:{deaf.getsockname()[1]}", closed_port()).ask([AskHead(0)], take, timeout=0.2)


def test_closing_breaks_off_what_is_asked(realm):
    asked, quiet = threading.Event(), threading.Event()

    def said(_):
        asked.set()
        quiet.wait()

    with server(realm, said=said) as mute:
        asker, failures = client(realm, mute.address), []

        def ask():
            try:
                asker.ask([AskHead(0)], take, timeout=60)
            except ClosedError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        asked.wait()
        asker.close()
        thread.join()
        quiet.set()
    assert "was closed" in str(failures[0])
    with pytest.raises(ClosedError):
        asker.ask([AskHead(0)], take)


class TestFirstContact:
    def test_the_fingerprint_proves_the_root(self, realm):
        with server(realm) as live:
            answer = fetch_root(Address.parse(live.address), realm.issuer.fingerprint)
        assert (answer.realm, answer.root) == (realm.name, realm.root)

    def test_of_another_realm(self, realm):
        other = Realm()
        with server(other) as foreign:
            with pytest.raises(TrustError, match="serves the realm with the root .* and the invitation says"):
                fetch_root(Address.parse(foreign.address), realm.issuer.fingerprint)

    def test_under_another_name(self, realm):
        def said(request):
            return RootIs(request.query, "other.example", realm.root, ())

        with server(realm, said=said) as live, pytest.raises(TrustError, match="serves the realm"):
            fetch_root(Address.parse(live.address), realm.issuer.fingerprint)

    def test_that_refuses(self, realm):
        with server(realm, said=lambda request: Denied(request.query, 36, "closed today")) as live:
            with pytest.raises(NoAuthority, match="closed today"):
                fetch_root(Address.parse(live.address), realm.issuer.fingerprint)

    def test_nobody_there(self, realm):
        with pytest.raises(NoAuthority, match="Connection refused"):
            fetch_root(Address.parse(closed_port()), realm.issuer.fingerprint)
