"""Each cell of the table of what is supported is what the code does."""

import pytest

from tests.ecosystem.models import SETTINGS
from tests.ecosystem.support_table import BEGIN, COLUMNS, END, PAGE, cell, form


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    lines = text.partition(BEGIN)[2].partition(END)[0].splitlines()
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines]


def test_the_table_has_every_architecture_and_method(rows):
    assert rows[0][2:] == list(COLUMNS)
    assert [row[:2] for row in rows[2:]] == [[f"`{kind}`", form(kind)] for kind in SETTINGS]


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_cell_is_true(column, kind, rows):
    (row,) = (row for row in rows if row[0] == f"`{kind}`")
    written = row[2 + list(COLUMNS).index(column)]
    assert written == cell(kind, column), "run `python -m tests.ecosystem.support_table`"
