"""The README's table of what is supported is what the code does today."""

from tests.ecosystem.support_table import BEGIN, END, README, updated


def test_the_table_of_the_readme_is_current():
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert updated(text) == text, "run `python -m tests.ecosystem.support_table`"
