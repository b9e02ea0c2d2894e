"""Reading data sets: order, grouping, verification, and what happens when a file is not what it should be."""

import gzip
import shutil
from pathlib import Path

import pytest

from loda.errors import LodaError
from loda.lab.data import Example, Pair, dart, e2e, group, load, load_pairs, source, webnlg
from loda.lab.data.toy import FILES

SHIPPED = FILES["test"].folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local copy of the data set that ships with the project."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "toy"))


def test_contexts_are_distinct_and_in_order_of_first_appearance():
    pairs = [Pair("a", "1"), Pair("b", "2"), Pair("a", "3")]
    assert group(pairs) == [Example("a", ("1", "3")), Example("b", ("2",))]


def test_the_shipped_data_set_loads():
    examples = load("toy", "test")
    assert len({example.context for example in examples}) == len(examples)
    assert sum(len(example.references) for example in examples) == len(load_pairs("toy", "test"))


def test_plain_gzipped_and_crlf_files_are_the_same(folder):
    expected = load("toy", "test")
    path = folder / "test.txt"
    text = path.read_bytes()
    path.write_bytes(text.replace(b"\n", b"\r\n"))
    assert load("toy", "test", folder) == expected
    path.unlink()
    (folder / "test.txt.gz").write_bytes(gzip.compress(text))
    assert load("toy", "test", folder) == expected


def test_an_altered_file_is_refused(folder):
    path = folder / "test.txt"
    path.write_text(path.read_text().replace("pub", "bar", 1))
    with pytest.raises(LodaError, match=r"test\.txt is not the original file.*blob id"):
        load("toy", "test", folder)


def test_a_truncated_archive_is_refused(folder):
    data = gzip.compress((folder / "test.txt").read_bytes())
    (folder / "test.txt").unlink()
    (folder / "test.txt.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(LodaError, match="cannot be read"):
        load("toy", "test", folder)


def test_a_missing_file_is_named_with_its_source(tmp_path):
    with pytest.raises(LodaError, match=r"train\.txt .*dataset\.path=.*raw\.githubusercontent"):
        load("e2e", "train", tmp_path)


def test_without_network_the_message_says_what_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("LODA_CACHE", str(tmp_path))

    def refuse(*arguments, **options):
        raise OSError("network is unreachable")

    monkeypatch.setattr(source.urllib.request, "urlopen", refuse)
    with pytest.raises(LodaError, match=r"dart.*could not be downloaded from https.*dataset\.path=.*make demo"):
        load("dart", "train")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(("name", "split"), [("e2f", "test"), ("source", "test"), ("e2e", "dev")])
def test_unknown_names_are_refused(name, split):
    with pytest.raises(LodaError, match="is not one of"):
        load(name, split)


def test_blob_ids_are_gits():
    # git hash-object of an empty file, and of "hello\n"
    assert source.blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert source.blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_e2e_lines_are_stripped_and_split():
    data = "name : A | food : B||A serves B . \nname : C||C\u2028is here . \n".encode()
    assert e2e.pairs(data) == [Pair("name : A | food : B", "A serves B ."), Pair("name : C", "C\u2028is here .")]


def test_dart_relations_are_lower_cased_and_empty_entries_skipped():
    data = (
        b'[{"tripleset": [["Mars", "ORBITS", "Sun"], ["[TABLECONTEXT]", "[TITLE]", "X &amp; Y"]],'
        b' "annotations": [{"source": "s", "text": "one"}, {"source": "s", "text": ""}]},'
        b' {"tripleset": [["a", "B", "c"]], "annotations": []}]'
    )
    context = "Mars : orbits : Sun | [TABLECONTEXT] : [title] : X &amp; Y"
    assert dart.pairs(data) == [Pair(context, "one"), Pair(context, "")]


def test_webnlg_keeps_good_lexicalisations_alone():
    data = (
        b'{"entries": [{"1": {"modifiedtripleset": [{"subject": "A_B", "property": "leaderName", "object": "C"}],'
        b' "lexicalisations": [{"comment": "good", "lex": "x"}, {"comment": "toFix", "lex": "y"}]}}]}'
    )
    assert webnlg.pairs(data) == [Pair("A_B : leaderName : C", "x")]
