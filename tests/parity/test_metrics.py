"""Every metric equals the official scripts: e2e-metrics (`measure_scores.py -p`) and GenerationEval (`eval.py`).

Expected numbers come from runs of those scripts at e2e-metrics 1b9c4d8 and GenerationEval 8067849. The small corpora
of data/metrics_e2e.json and data/metrics_dart.json were written for this test; there a null BLEU and NIST stands for a
ZeroDivisionError of the official script. The real test sets are read from the folder of reference data.
"""

import gzip
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import nltk
import pytest
from nltk.tokenize.punkt import load_punkt_params

from eval.score import add_up, score
from eval.score.__main__ import main
from eval.score.corpus import Corpus, Statistics
from eval.score.metrics import meteor
from eval.score.postprocess import prepare
from eval.score.text_files import read_corpus
from eval.score.tokenizers import mteval, ptb
from eval.score.tokenizers import nltk_words as words
from loda.errors import LodaError
from loda.lab.stage import digest

DATA = Path(__file__).parent / "data"
E2E = json.loads((DATA / "metrics_e2e.json").read_text(encoding="utf-8"))
DART = json.loads((DATA / "metrics_dart.json").read_text(encoding="utf-8"))
SYSTEMS = ["tgen", "slug", "sheff2", "forge3", "tr2"]


def exactly(value: float) -> Any:
    """All digits but the last one or two of a double, which belong to the mathematics library."""
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def meteor_of(statistics: list[Statistics]) -> tuple[float, list[float]]:
    """METEOR of the corpus, and of each instance alone."""
    return meteor.combine(add_up(statistics), "e2e"), [meteor.combine(one, "e2e") for one in statistics]


@pytest.fixture(scope="module")
def ptb_tokens() -> dict[str, str]:
    """The PTB tokens of all texts of the small E2E corpora, by one start of Java instead of two for each corpus."""
    texts = [text for case in E2E.values() for group in [case["hyps"], *case["refs"]] for text in group]
    stripped = sorted({text.strip() for text in texts})
    return dict(zip(stripped, ptb.tokenise(stripped), strict=True))


def write_e2e(folder: Path, references: list[list[str]], hypotheses: list[str]) -> Corpus:
    (folder / "refs.txt").write_text("\n\n".join("\n".join(group) for group in references) + "\n", encoding="utf-8")
    (folder / "hyps.txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
    return read_corpus("e2e", folder / "refs.txt", folder / "hyps.txt")


@pytest.mark.parametrize("name", E2E)
def test_e2e_small_corpora(
    name: str, tmp_path: Path, ptb_tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = E2E[name]
    monkeypatch.setattr(ptb, "tokenise", lambda texts: [ptb_tokens[text] for text in texts])
    expected = case["expected"]
    corpus = write_e2e(tmp_path, case["refs"], case["hyps"])

    assert list(corpus.hypothesis_words) == expected["ptb"]["hyps"]
    assert [list(group) for group in corpus.reference_words] == expected["ptb"]["refs"]
    assert score(corpus, ["rouge_l", "cider"]) == {
        "ROUGE_L": exactly(expected["ROUGE_L"]),
        "CIDEr": exactly(expected["CIDEr"]),
    }
    total, segments = meteor_of(meteor.statistics(corpus))
    assert total == exactly(expected["METEOR"])
    assert segments == [exactly(value) for value in expected["METEOR_seg"]]


@pytest.mark.parametrize("name", E2E)
def test_e2e_small_corpora_bleu_and_nist(name: str, tmp_path: Path) -> None:
    case = E2E[name]
    expected = case["expected"]
    corpus = write_e2e(tmp_path, case["refs"], case["hyps"])

    tokens = [[token.lower() for token in tokens] for tokens in expected["mteval_tokens"]["hyps"]]
    assert [mteval.tokenise(text) for text in case["hyps"]] == tokens
    if expected["NIST_python"] is None:
        with pytest.raises(LodaError, match="NIST is undefined"):
            score(corpus, ["nist"])
        assert math.isfinite(score(corpus, ["bleu"])["BLEU"])
    else:
        assert score(corpus, ["bleu", "nist"]) == {
            "BLEU": exactly(expected["BLEU_python"]),
            "NIST": exactly(expected["NIST_python"]),
        }


@pytest.mark.parametrize("system", SYSTEMS)
def test_e2e_test_set(system: str, shared: Path) -> None:
    folder = shared / "goldens" / "metrics" / "e2e"
    expected = json.loads((folder / "expected.json").read_text())[system]
    per_segment = json.loads((folder / "expected_segments.json").read_text())[system]
    corpus = read_corpus("e2e", folder / "references.txt", folder / "outputs" / f"{system}.txt")

    assert score(corpus, ["bleu", "nist", "rouge_l", "cider"]) == {
        "BLEU": exactly(expected["BLEU_python"]),
        "NIST": exactly(expected["NIST_python"]),
        "ROUGE_L": exactly(expected["ROUGE_L"]),
        "CIDEr": exactly(expected["CIDEr"]),
    }
    total, segments = meteor_of(meteor.statistics(corpus))
    assert total == exactly(expected["METEOR"])
    assert segments == [exactly(value) for value in per_segment["METEOR"]]


@pytest.mark.parametrize("name", DART)
def test_dart_small_corpora(name: str, tmp_path: Path) -> None:
    case = DART[name]
    expected = case["expected"]
    assert not case["files_end_with_newline"]
    for number in range(case["num_refs"]):
        padding = [group[0] if case["padding"] == "first" else "" for group in case["refs"]]
        lines = [
            group[number] if number < len(group) else filler
            for group, filler in zip(case["refs"], padding, strict=True)
        ]
        suffix = str(number) if case["num_refs"] > 1 else ""
        (tmp_path / f"reference{suffix}").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "hypothesis").write_text("\n".join(case["hyps"]), encoding="utf-8")

    prefix, hypothesis, output = tmp_path / "reference", tmp_path / "hypothesis", tmp_path / "scores.json"
    code = main(["--scorer", "dart", "--refs", str(prefix), "--hyps", str(hypothesis), "--json", str(output)])

    assert code == 0
    scores = json.loads(output.read_text())
    # The Perl script prints two decimals.
    assert round(scores.pop("BLEU"), 2) == expected["BLEU"]
    assert scores == {"METEOR": exactly(expected["METEOR"]), "TER": exactly(expected["TER"])}
    corpus = read_corpus("dart", prefix, hypothesis)
    assert list(corpus.hypothesis_words) == expected["tokenised_hyps"]


def test_ter_with_an_extra_segment_stands_beside_ter() -> None:
    """One of four words is wrong in the first text, the second is right; the extra segment counts as a third of 1."""
    ter = score(Corpus("dart", ("a b c x", "e"), (("a b c d",), ("e",))), ["ter"])["TER"]
    assert ter == exactly(1 / 8)
    assert (2 * ter + 1) / 3 == exactly((1 / 4 + 1) / 3)


def test_dart_test_set(shared: Path) -> None:
    folder = shared / "goldens" / "metrics" / "dart" / "bart_large_lora_style"
    expected = json.loads((folder / "expected.json").read_text())
    corpus = read_corpus("dart", folder / "reference", folder / "hypothesis")

    scores = score(corpus, ["bleu", "meteor", "ter"])

    assert round(scores["BLEU"], 2) == expected["BLEU"]
    assert scores["METEOR"] == exactly(expected["METEOR"])
    assert scores["TER"] == exactly(expected["TER"])


def test_the_tables_are_those_of_nltk(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content, because the order of the lines is not part of it; and by the hash that keys the scores."""
    folder = shared / "data" / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    monkeypatch.setattr("nltk.data.path", [str(shared / "data" / "nltk_data")])
    assert words._digest(load_punkt_params(nltk.data.find("tokenizers/punkt_tab/english/"))) == words._TABLES
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert digest(hashes) == words.PUNKT_TAB
    text = "Mr. Aguecheek of St. Louis, Mo. ate at 5 p.m. on Jan. 3. He left... J. Walter of the U.S. came."
    assert words.tokenise([text]) == [" ".join(nltk.word_tokenize(text))]


def test_dart_leaderboard(shared: Path) -> None:
    """Yale-LILY/dart prints 48.56, 0.39 and 0.45 for these outputs, its METEOR more exactly 0.3922330037443794.

    (metrics document, section 2.) It scores every entry of the test file against its first three references, an empty
    line for each missing one; the TER of that script is tercom's.
    """
    folder = shared / "goldens" / "metrics" / "dart" / "bart_large_lora_style"
    entries = json.loads(gzip.decompress((shared / "data/dart/dart-v1.1.1-full-test.json.gz").read_bytes()))
    texts = (folder / "hypothesis").read_text(encoding="utf-8").split("\n")
    stop = ("<|endoftext|>", "\n\n")
    groups = [prepare("dart", [one["text"] for one in entry["annotations"]][:3], stop) for entry in entries]
    padded = [[*group, *[""] * (3 - len(group))] for group in groups if group]

    corpus = Corpus("dart", prepare("dart", texts, stop), padded)
    scores = score(corpus, ["bleu", "meteor", "ter"])

    assert len(corpus.hypotheses) == 5097
    assert round(scores["BLEU"], 2) == 48.56
    assert scores["METEOR"] == exactly(0.3922330037443794)
    assert round(scores["TER"], 2) == 0.45


def test_every_small_corpus_of_the_reference_data_is_among_those_of_this_folder(shared: Path) -> None:
    for name, ours in (("e2e", E2E), ("dart", DART)):
        theirs = json.loads((shared / "goldens" / "metrics" / "edge" / f"{name}.json").read_text(encoding="utf-8"))
        assert theirs.keys() == ours.keys()
        for case, content in ours.items():
            assert is_part(content, theirs[case]), case


def is_part(one: Any, whole: Any) -> bool:
    """Whether all that `one` says is said by `whole`, which may have more keys."""
    if isinstance(one, dict):
        return all(is_part(value, whole[key]) for key, value in one.items())
    return bool(one == whole)


def test_the_e2e_references_are_those_of_the_reference_data(shared: Path) -> None:
    folder = shared / "goldens" / "metrics" / "e2e"
    corpus = read_corpus("e2e", folder / "references.txt", folder / "outputs" / "tgen.txt")
    expected = json.loads((folder / "references.json").read_text(encoding="utf-8"))
    assert [list(group) for group in corpus.references] == [[text.strip() for text in one["refs"]] for one in expected]


def test_order_of_instances_does_not_matter() -> None:
    case = E2E["different_reference_counts"]
    references = tuple(map(tuple, case["refs"]))
    hypotheses = tuple(case["hyps"])
    metrics = ["bleu", "nist", "meteor", "rouge_l", "cider"]
    forwards = score(Corpus("e2e", hypotheses, references), metrics)
    backwards = score(Corpus("e2e", hypotheses[::-1], references[::-1]), metrics)
    assert backwards == pytest.approx(forwards, rel=1e-12)


def test_bars_in_a_text_do_not_look_like_fields_to_meteor() -> None:
    """0.4396575987933198 is what the jar's batch mode, which has no field separator, prints for these files."""
    hypotheses = ["a ||| dog ||| sat on the big mat", "the cat || sat |", "the dog"]
    references = [
        ["the ||| dog sat on ||| mat", "a dog sat on mat"],
        ["the cat ||| sat", "cat | | | sat"],
        ["a nice dog", ""],
    ]
    total, segments = meteor_of(meteor.count_matches(hypotheses, references))
    assert total == exactly(0.4396575987933198)
    assert segments == [exactly(each) for each in (0.4776496382230889, 0.4776696620223255, 0.18320610687022898)]
