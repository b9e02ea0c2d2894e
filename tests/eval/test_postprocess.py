"""What each scorer is given; `tests/parity/test_postprocess.py` compares real files."""

from types import SimpleNamespace

import pytest

from eval.score.postprocess import make_corpus
from loda.errors import LodaError

STOP = ("<|endoftext|>",)


def corpus_of(scorer, text, references, stop=STOP):
    return make_corpus(scorer, [text], [SimpleNamespace(references=references)], stop)


def test_e2e_has_all_references_as_they_are():
    corpus = corpus_of("e2e", "A b.", ("A b.", "c"))
    assert (corpus.hypotheses, corpus.references) == (("A b.",), (("A b.", "c"),))


def test_dart_has_six_references_of_which_the_first_fills_up():
    corpus = corpus_of("dart", "Of X.", ("A b.", "c"))
    assert corpus.hypotheses == ("of x .",)
    assert corpus.references == (("a b .", "c", "a b .", "a b .", "a b .", "a b ."),)


def test_a_seventh_reference_is_left_out():
    assert corpus_of("webnlg", "a", tuple("abcdefg")).references == (tuple("abcdef"),)


def test_predictions_of_another_split_are_refused():
    with pytest.raises(LodaError, match="2 predictions for 1 contexts"):
        make_corpus("e2e", ["one", "two"], [SimpleNamespace(references=("a",))], STOP)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        pytest.param(("<|endoftext|>", "\n\n"), "One paragraph.", id="LoRA's"),
        pytest.param(("<|endoftext|>",), "One paragraph.  And another one.", id="own data"),
    ],
)
def test_a_text_ends_where_a_hypothesis_may_and_nowhere_else(stop, expected):
    text = "One paragraph.\n\nAnd another\none.<|endoftext|>Never seen."
    corpus = corpus_of("e2e", text, (text,), stop)
    assert (corpus.hypotheses, corpus.references) == ((expected,), ((expected,),))
