"""Properties of the metrics for any texts, and METEOR's Java process."""

import os
import re
import signal
import sys
import threading
import time

import pyter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.score import Corpus, add_up, score
from eval.score import corpus as corpora
from eval.score.metrics import bleu, meteor
from eval.score.metrics.ter import edit_rate
from eval.score.tokenizers import java, mteval, ptb
from loda.errors import LodaError
from loda.lab.interrupt import Interrupted, listening
from tests.conftest import python

WORDS = st.lists(st.sampled_from("abcde"), max_size=7)
# Five words and more, so that every order of BLEU and NIST has n-grams.
TEXTS = st.lists(st.sampled_from(["the", "pub", "The", "is", "cheap", ".", "Vaults"]), min_size=5).map(" ".join)
INSTANCES = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=4)


def value(metric, corpus):
    """The score of a corpus, from the sums of its instances' statistics."""
    return metric.combine(add_up(metric.statistics(corpus)), corpus.scorer)


def corpus_of(instances, scorer="e2e"):
    hypotheses, references = zip(*instances, strict=True)
    return Corpus(scorer, hypotheses, references)


@given(INSTANCES, st.sampled_from(["e2e", "dart"]))
def test_bleu_of_a_reference_is_best(instances, scorer):
    best = 1.0 if scorer == "e2e" else 100.0
    perfect = [(group[-1], group) for _, group in instances]
    assert value(bleu, corpus_of(perfect, scorer)) == pytest.approx(best)
    assert value(bleu, corpus_of(instances, scorer)) <= best * (1 + 1e-12)


@given(WORDS, WORDS.filter(bool))
def test_ter_is_that_of_pyter(hypothesis, reference):
    assert edit_rate(hypothesis, reference) == pyter.ter(hypothesis, reference)
    assert edit_rate(reference, []) == 1


@pytest.fixture
def fake_java(monkeypatch, tmp_path):
    """Put a Python program in the place of Java; it sees METEOR's or the tokeniser's command line and input."""

    def install(program: str) -> None:
        script = tmp_path / "java"
        script.write_text(f"#!{sys.executable}\nimport sys, time\n{program}")
        script.chmod(0o755)
        monkeypatch.setattr(java, "runtime", lambda: script)

    monkeypatch.setattr(meteor, "_process", None)
    return install


def test_meteor_that_dies_is_reported_with_its_last_words_and_started_anew(fake_java):
    fake_java("sys.exit('java.lang.OutOfMemoryError: Java heap space')")
    with pytest.raises(LodaError, match=r"ended with code 1 .*OutOfMemoryError"):
        meteor.count_matches(["a"], [["a"]])
    fake_java("for line in sys.stdin: print(*range(23), flush=True)")
    assert meteor.count_matches(["a"], [["a"]]) == [tuple(range(23))]


@pytest.mark.parametrize("trouble", ["sys.exit(1)", "time.sleep(60)"], ids=["dies", "hangs"])
def test_meteor_is_started_once_more_for_the_question_that_it_did_not_answer(fake_java, monkeypatch, tmp_path, trouble):
    """The first process answers one question and comes to grief over the second, which its successor answers."""
    monkeypatch.setattr(meteor, "_SECONDS", 1.0)
    monkeypatch.setattr(meteor, "_BATCH", 1)
    fake_java(f"""
from pathlib import Path
first = not Path({str(tmp_path / "seen")!r}).exists()
Path({str(tmp_path / "seen")!r}).touch()
for number, line in enumerate(sys.stdin):
    if first and number == 1:
        {trouble}
    print(*[len(line)] * 23, flush=True)
""")
    assert meteor.count_matches(["a", "bb"], [["a"], ["b"]]) == [(18.0,) * 23, (19.0,) * 23]


def test_the_limit_of_meteor_is_silence_however_slow_the_machine_is(fake_java, monkeypatch):
    monkeypatch.setattr(meteor, "_SECONDS", 2.0)
    fake_java("for line in sys.stdin: time.sleep(0.8); print(*range(23), flush=True)")
    assert len(meteor.count_matches(["a"] * 4, [["a"]] * 4)) == 4  # in 3.2 seconds
    fake_java("time.sleep(60)")
    meteor._process.close()
    monkeypatch.setattr(meteor, "_SECONDS", 0.2)
    with pytest.raises(LodaError, match="was silent for 0 seconds and was stopped"):
        meteor.count_matches(["a"], [["a"]])


def test_a_signal_during_meteor_is_obeyed_at_once_and_java_is_gone(fake_java, monkeypatch):
    monkeypatch.setattr(corpora, "_words", lambda scorer, groups: groups)
    fake_java("time.sleep(600)")
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    started = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"), listening():
        score(Corpus("e2e", ("a",), (("a",),)), ["meteor"])
    assert time.monotonic() - started < 1 + 5
    assert meteor._process._java.returncode is not None
    fake_java("for line in sys.stdin: print(*range(23), flush=True)")
    assert score(Corpus("e2e", ("a",), (("a",),)), ["meteor"])  # the next scoring works


def test_meteor_may_complain_at_length(fake_java):
    fake_java("for line in sys.stdin: print('x' * 200_000, file=sys.stderr); print(1, flush=True)")
    process = meteor.MeteorProcess()
    assert process.ask(["SCORE"] * 3) == ["1\n"] * 3
    process.close()


def test_interrupted_meteor_is_not_asked_again(fake_java, monkeypatch):
    """Its unread answer would pass for the one to the next question."""
    fake_java("for line in sys.stdin: print(1, flush=True)")
    process = meteor.MeteorProcess()

    class Interrupted(threading.Timer):
        def start(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(meteor.threading, "Timer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.ask(["SCORE"])
    assert not process.close.alive


def test_interpreter_ends_at_once_while_meteor_runs(tmp_path):
    """Nothing waits for the process, which is gone as well."""
    script = tmp_path / "java"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    program = (
        "import sys; from pathlib import Path; from eval.score.metrics import meteor\n"
        "from eval.score.tokenizers import java\n"
        "java.runtime = lambda: Path(sys.argv[1])\n"
        "print(meteor._running()._java.pid)\n"
        "raise RuntimeError('broken off')\n"
    )
    done = python("-c", program, script)
    assert "broken off" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.parametrize(
    ("program", "seconds", "sentence"),
    [
        ("sys.exit('no such class')", 60, "code 1: no such class"),
        ("time.sleep(60)", 0.2, "no answer within"),
        ("print('a')", 60, "2 lines for 3 texts"),
    ],
    ids=["fails", "hangs", "loses a text"],
)
def test_a_tokeniser_in_trouble_is_not_believed(program, seconds, sentence, fake_java, monkeypatch):
    monkeypatch.setattr(ptb, "_SECONDS", seconds)
    fake_java(program)
    with pytest.raises(LodaError, match=sentence):
        ptb.tokenise(["a", "b", "c"])


def test_line_breaks_inside_a_text_do_not_split_it():
    """str.splitlines breaks at all of these, and so does the tokeniser."""
    texts = ["one\u2028two", "three\nfour\r", "five\x0bsix\x85seven", "", "eight|||nine"]
    assert ptb.tokenise(texts) == ["one two", "three four", "five six seven", "", "eight | | | nine"]


def test_settings_of_the_user_do_not_change_what_java_does(monkeypatch):
    """In Turkish, the lower case of I is ı."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Dfile.encoding=latin1")
    monkeypatch.setenv("LC_ALL", "C")
    assert ptb.tokenise(["THE VILLA CAFÉ"]) == ["the villa café"]


ODD = "".join(map(chr, [*range(0x21), 0x7F, 0x85, 0xA0, 0x1680, 0x2007, 0x2028, 0x2029, 0x202F, 0x3000, 0xFEFF]))
PARTS = [*ODD, *"a1.,-&'\"", "&lt;", "<skipped>", "ΑΣ"]
ANY_TEXT = st.lists(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(PARTS))).map("".join)


def split_punctuation(text):
    """mteval-v13a up to white space, on characters; ASCII punctuation and digits alone count."""
    entities = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
    for old, new in ({"<skipped>": "", "-\n": "", "\n": " "} | entities).items():
        text = text.replace(old, new)
    text = re.sub("([!-&(-+/:-@[-`{-~ ])", r" \1 ", f" {text} ")
    text = re.sub("([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub("([.,])([^0-9])", r" \1 \2", text)
    return re.sub("([0-9])(-)", r"\1 \2 ", text)


@given(ANY_TEXT)
def test_the_tokens_of_e2e_are_those_of_the_python_script_for_any_text(text):
    """White space is Python's; the text is stripped and split at one space, so an empty one has one token."""
    expected = re.sub(r"\s+", " ", split_punctuation(text)).strip().split(" ")
    assert mteval.tokenise(text) == [token.lower() for token in expected]


# What Perl's \s matches in a string of characters: Unicode's White_Space, so not U+001C to U+001F.
PERL_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"


@given(ANY_TEXT, ANY_TEXT)
def test_the_words_of_dart_are_those_of_the_perl_script_for_any_text(text, reference):
    ((length, closest, hits, *_),) = bleu.statistics(Corpus("dart", [text], [[reference]]))
    words, others = ([w for w in re.split(PERL_SPACE, split_punctuation(t)) if w] for t in (text, reference))
    assert (length, closest) == (len(words), len(others))
    assert hits == sum(min(words.count(word), others.count(word)) for word in set(words))


def test_no_character_shifts_the_lines_of_the_ptb_tokeniser():
    """Every character of the first plane, between texts whose words are known."""
    texts = [f"a {chr(c)} b" for c in [*range(0xD800), *range(0xE000, 0x10000)] if chr(c) != "<"]
    found = ptb.tokenise([text for each in texts for text in (each, "anchor")])
    assert set(found[1::2]) == {"anchor"}
    assert all(words.startswith("a") and words.endswith("b") for words in found[::2])


HOSTILE = {
    "LC_ALL": "tr_TR.UTF-8",
    "LANG": "tr_TR.UTF-8",
    "JAVA_TOOL_OPTIONS": "-Duser.language=tr -Duser.country=TR -Dfile.encoding=ISO-8859-9",
    "JDK_JAVA_OPTIONS": "-Duser.language=tr",
    "PYTHONIOENCODING": "latin-1",
    "PYTHONUTF8": "0",
}


def test_the_environment_changes_no_digit_of_any_metric():
    """Texts that are equal but for case, with an I and letters beyond ASCII: each metric that folds case is perfect."""
    program = """
from eval.score import Corpus, score
texts = ["THE INDIAN INN IN ISTANBUL IS FINE", "\\u00c9CLAIR CAF\\u00c9 IS AN INVITING INN HERE"]
corpus = Corpus("e2e", texts, [[text.lower()] for text in texts])
found = score(corpus, ["bleu", "nist", "meteor", "rouge_l", "cider"])
print({name: float(f"{value:.12g}") for name, value in found.items()})
"""
    done = python("-c", program, **HOSTILE)
    assert done.returncode == 0, done.stderr
    found = eval(done.stdout)
    assert found.pop("NIST") > 3
    assert found == {"BLEU": 1.0, "METEOR": 1.0, "ROUGE_L": 1.0, "CIDEr": 10.0}
