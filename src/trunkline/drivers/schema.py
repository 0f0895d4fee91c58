"""The tables of an authority's store: the one place that says what is kept (docs/spec/authority.md section 10).

What is read by its fields has columns; what is only handed out is a blob of MessagePack, as it goes over the wire. User
names are compared byte by byte, so that lists page on where they stopped, whatever the database's language.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.dialects import sqlite

VERSION: Final = 1
"""Of these tables. A store says its own in ``kept``; one with another than this is not touched."""

metadata: Final = MetaData()

# BigInteger is not what SQLite calls its row number; INTEGER is, and a key that is the row number needs no index.
_NUMBER: Final = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
_NAME: Final = String(255).with_variant(Text(collation="C"), "postgresql").with_variant(Text(), "sqlite")

# Single values by name:
#   version   of the tables, as decimal digits
#   realm     the fingerprint that everything in here is about
#   saves     how many transactions there were, as decimal digits: each expects the number before it, so that two
#             processes which both believe that they are the authority can't write in turns
#   head      the last signed head (SignedHead)
#   upstream  of a replica: the answer that it serves
kept: Final = Table(
    "kept",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# The log. Rows are only ever added.
statements: Final = Table(
    "statements",
    metadata,
    Column("place", _NUMBER, primary_key=True, autoincrement=False),  # the log index, from 0
    Column("name", _NAME, nullable=False),  # the user that it is about
    Column("leaf", LargeBinary, nullable=False),  # its leaf hash, 32 bytes
    Column("signed", LargeBinary, nullable=False),  # Signed
    # For a user's history; and, with the leaf in it, for finding a statement again without reading any.
    Index("statements_by_name", "name", "place", "leaf"),
)

# The present entry of each user: what the log comes to.
records: Final = Table(
    "records",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("state", SmallInteger, nullable=False),  # tentative 1, approved 2, deleted 3
    Column("place", _NUMBER, nullable=False),  # log index of the latest statement
    Column("record", LargeBinary, nullable=False),  # Record
    Index("records_by_state", "state", "name"),
)

# The hashes of the log and the map, some together in each row: trunkline.authority knows how. With values of 1 kB a
# table WITHOUT ROWID would be slower in SQLite: its inner pages hold values too, and the tree is deep.
nodes: Final = Table(
    "nodes",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# Certificates that have not expired, so that they can be revoked, and given again to who lost the answer.
issued: Final = Table(
    "issued",
    metadata,
    Column("place", _NUMBER, primary_key=True, autoincrement=True),  # order of issue
    Column("name", _NAME, nullable=False),
    Column("not_after", _NUMBER, nullable=False),  # seconds since 1970
    Column("certificate", LargeBinary, nullable=False),  # IssuedCertificate
    Index("issued_by_name", "name"),
    Index("issued_by_end", "not_after"),
)

# Their serials once revoked, until they expire.
revoked: Final = Table(
    "revoked",
    metadata,
    Column("serial", LargeBinary, primary_key=True),
    Column("not_after", _NUMBER, nullable=False),
)
