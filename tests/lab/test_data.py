"""Reading data sets: order, grouping, verification, and what happens when a file is not what it should be."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from loda.errors import LodaError
from loda.lab.data import Instance, Pair, dart, e2e, group, load, source, webnlg
from loda.lab.data.source import SourceFile, blob_id, cache_folder
from loda.lab.data.toy import FILES

SHIPPED = FILES["test"].folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local copy of the data set that ships with the project."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "toy"))


def test_contexts_are_distinct_and_in_order_of_first_appearance():
    pairs = [Pair("a", "1"), Pair("b", "2"), Pair("a", "3")]
    assert group(pairs) == [Instance("a", ("1", "3")), Instance("b", ("2",))]


def test_plain_gzipped_and_crlf_files_are_the_same(folder):
    expected = load("toy", "test")
    path = folder / "test.txt"
    text = path.read_bytes()
    path.write_bytes(text.replace(b"\n", b"\r\n"))
    assert load("toy", "test", folder) == expected
    path.unlink()
    (folder / "test.txt.gz").write_bytes(gzip.compress(text))
    assert load("toy", "test", folder) == expected


@pytest.mark.parametrize("upstream", [b"a\r\nb\r\n", b"a\nb\n"])
@pytest.mark.parametrize("local", [b"a\r\nb\r\n", b"a\nb\n"])
def test_line_ends_of_another_system_do_not_matter(upstream, local, tmp_path):
    (tmp_path / "file").write_bytes(local)
    assert source.read("a", SourceFile("file", blob_id(upstream), 2, "https://a"), tmp_path)[1] == b"a\nb\n"


@pytest.mark.parametrize("content", [b"a\r\nb\r\n", b"a\nb\n"])
def test_a_download_is_verified_kept_and_not_repeated(content, tmp_path, monkeypatch):
    monkeypatch.setenv("LODA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "upstream").write_bytes(content)
    file = SourceFile("file", blob_id(content), 2, (tmp_path / "upstream").as_uri())
    assert source.read("a", file, None)[1] == b"a\nb\n"
    (tmp_path / "upstream").unlink()
    assert source.read("a", file, None)[1] == b"a\nb\n"


def test_a_download_of_something_else_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LODA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "upstream").write_bytes(b"another text")
    with pytest.raises(LodaError, match="sent something else"):
        source.locate("a", SourceFile("file", blob_id(b"a text"), 2, (tmp_path / "upstream").as_uri()), None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


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


def test_halves_of_a_test_split_without_categories_are_refused():
    with pytest.raises(LodaError, match="'test_seen' needs categories"):
        load("toy", "test_seen")


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


def webnlg_entry(category: str, *texts: tuple[str, str]) -> dict:
    return {
        "category": category,
        "modifiedtripleset": [{"subject": "A_B", "property": "leaderName", "object": category}],
        "lexicalisations": [{"comment": comment, "lex": lex} for comment, lex in texts],
    }


def test_webnlg_keeps_only_good_lexicalisations():
    entry = webnlg_entry("City", ("good", "x"), ("toFix", "y"))
    assert webnlg.pairs(json.dumps({"entries": [{"1": entry}]}).encode()) == [
        Pair("A_B : leaderName : City", "x", seen=True)
    ]


def test_webnlg_test_split_has_a_seen_and_an_unseen_half(tmp_path, monkeypatch):
    entries = [webnlg_entry("City", ("good", "x")), webnlg_entry("Artist", ("good", "y"), ("good", "z"))]
    data = json.dumps({"entries": [{str(i): entry} for i, entry in enumerate(entries, start=1)]}).encode()
    (tmp_path / "test.json").write_bytes(data)
    monkeypatch.setitem(webnlg.FILES, "test", SourceFile("test.json", blob_id(data), 3))
    whole, seen, unseen = (load("webnlg", split, tmp_path) for split in ("test", "test_seen", "test_unseen"))
    assert seen == [Instance("A_B : leaderName : City", ("x",))]
    assert unseen == [Instance("A_B : leaderName : Artist", ("y", "z"))]
    assert whole == seen + unseen


def test_a_user_without_a_home_can_say_where_the_cache_is(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("LODA_CACHE", str(tmp_path))
    assert cache_folder("e2e") == tmp_path / "e2e"
