"""The key exchange: both sides agree, in any portions; other bytes are refused; what is secret isn't shown."""

import itertools

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trunkline.errors import LinkClosed, NotTrunkline
from trunkline.meeting.datagram_keys import EXCHANGE, EXCHANGE_SIZE, KeyExchange, Session, derive
from trunkline.meeting.handshake import Role
from trunkline.names import Secret

MATCH = b"\x01\x02\x03\x04\x05\x06\x07\x08"
ONE, TWO = Secret(bytes(range(32))), Secret(bytes(range(100, 132)))


def exchange(portion: int = EXCHANGE_SIZE) -> tuple[Session, Session]:
    """Return both sides' sessions; bytes come in portions."""
    active, passive = KeyExchange(Role.ACTIVE, MATCH, ONE), KeyExchange(Role.PASSIVE, MATCH, TWO)
    assert passive.data_to_send() == b""
    for sender, receiver in ((active, passive), (passive, active)):
        data = sender.data_to_send()
        assert len(data) == EXCHANGE_SIZE
        assert sender.data_to_send() == b""
        while receiver.bytes_wanted:
            size = min(portion, receiver.bytes_wanted)
            receiver.receive_data(data[:size])
            data = data[size:]
        assert data == b""
    assert active.data_to_send() == b""
    assert active.session is not None
    assert passive.session is not None
    return active.session, passive.session


@pytest.mark.parametrize("portion", [1, 7, 8, 9, EXCHANGE_SIZE])
def test_both_sides_agree(portion: int) -> None:
    active, passive = exchange(portion)
    assert active.id == passive.id
    assert active.sending == passive.receiving
    assert active.receiving == passive.sending
    assert active.sending != active.receiving, "or what we send could be sent back to us"


def test_the_passive_side_is_done_only_with_its_answer() -> None:
    passive = KeyExchange(Role.PASSIVE, MATCH, TWO)
    passive.receive_data(KeyExchange(Role.ACTIVE, MATCH, ONE).data_to_send())
    assert passive.session is not None
    assert passive.bytes_wanted == 0
    assert passive.data_to_send() == EXCHANGE + TWO.reveal()


def test_the_derivation_is_that_of_the_spec() -> None:
    """docs/spec/sealing.md section 7, spelt out."""
    made = HKDF(SHA256(), 80, salt=MATCH, info=b"trunkline datagram keys v1\0").derive(ONE.reveal() + TWO.reveal())
    active, _ = exchange()
    assert (active.sending.reveal(), active.receiving.reveal(), active.id) == (made[:32], made[32:64], made[64:])
    assert made[64:].hex() == "ed68cc930175f6e620a37ee29bbd206f"


def test_every_part_counts() -> None:
    """Another match, share, or role gives other keys and another id."""
    other = Secret(bytes(32))
    sessions = [
        derive(role, match, ours, theirs)
        for role, match, (ours, theirs) in itertools.product(
            (Role.ACTIVE,), (MATCH, bytes(8)), ((ONE, TWO), (TWO, ONE), (ONE, other), (other, TWO))
        )
    ]
    assert len({session.id for session in sessions}) == len(sessions)
    keys = {key.reveal() for session in sessions for key in (session.sending, session.receiving)}
    assert len(keys) == 2 * len(sessions)


@pytest.mark.parametrize("data", [b"X", b"TRUNKX/2", b"GET / HTTP", EXCHANGE + bytes(33)])
def test_other_bytes_are_refused_at_once(data: bytes) -> None:
    for role in Role:
        with pytest.raises(NotTrunkline):
            KeyExchange(role, MATCH, ONE).receive_data(data)


def test_an_end_is_a_lost_link() -> None:
    with pytest.raises(LinkClosed, match="hung up before the keys"):
        KeyExchange(Role.ACTIVE, MATCH, ONE).receive_eof()


def test_keys_are_not_shown() -> None:
    active, _ = exchange()
    assert repr(active).count("Secret(…)") == 2
