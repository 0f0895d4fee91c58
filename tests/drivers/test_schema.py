"""The tables: both databases take them, and nothing in them is left to a database's language."""

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from trunkline.drivers import schema


def test_names_are_compared_byte_by_byte_in_both_databases() -> None:
    for table in schema.metadata.sorted_tables:
        if "name" in table.c:
            assert 'name TEXT COLLATE "C" NOT NULL' in str(CreateTable(table).compile(dialect=postgresql.dialect()))
            assert "name TEXT NOT NULL" in str(CreateTable(table).compile(dialect=sqlite.dialect()))  # its own default


def test_a_place_in_the_log_is_the_row_number_in_sqlite() -> None:
    made = str(CreateTable(schema.statements).compile(dialect=sqlite.dialect()))
    assert "place INTEGER NOT NULL" in made
    assert "PRIMARY KEY (place)" in made
    assert "place BIGINT" in str(CreateTable(schema.statements).compile(dialect=postgresql.dialect()))


def test_every_table_is_there() -> None:
    assert {table.name for table in schema.metadata.sorted_tables} == {
        "kept",
        "statements",
        "records",
        "nodes",
        "issued",
        "revoked",
    }
