"""What each protocol's scorer is given."""

import pytest

from eval.pipeline import make_corpus
from eval.score.postprocess import pad_references
from loda.errors import LodaError
from loda.lab.data import Example

FOUR = ["a", "b", "c", "d"]
STOP = ("<|endoftext|>",)


@pytest.mark.parametrize(
    ("protocol", "given", "expected"),
    [
        ("e2e", FOUR, FOUR),
        ("dart", FOUR, ["a", "b", "c", "d", "a", "a"]),
        ("webnlg", [*FOUR, "e", "f", "g"], ["a", "b", "c", "d", "e", "f"]),
        ("dart_leaderboard", FOUR, ["a", "b", "c"]),
        ("dart_leaderboard", ["a"], ["a", "", ""]),
    ],
)
def test_the_number_of_references_is_the_protocols(protocol, given, expected):
    assert pad_references(protocol, given) == expected


def test_an_instance_has_the_prediction_of_its_context_wherever_it_stands():
    examples = [Example("x", ("A b.", "c", "d")), Example("y", ("e",))]
    entries = [Example("x", ("A b.",)), Example("y", ("e",)), Example("x", ("c", "d"))]
    corpus = make_corpus("dart_leaderboard", ["Of X", "of y"], examples, entries, STOP)
    assert corpus.hypotheses == ("of x", "of y", "of x")
    assert corpus.references == (("a b .", "", ""), ("e", "", ""), ("c", "d", ""))


def test_predictions_of_another_split_are_refused():
    examples = [Example("x", ("a",))]
    with pytest.raises(LodaError, match="2 predictions for 1 contexts"):
        make_corpus("e2e", ["one", "two"], examples, examples, STOP)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        pytest.param(("<|endoftext|>", "\n\n"), "One paragraph.", id="LoRA's"),
        pytest.param(("<|endoftext|>",), "One paragraph.  And another one.", id="own data"),
    ],
)
def test_a_text_ends_where_a_hypothesis_may_and_nowhere_else(stop, expected):
    text = "One paragraph.\n\nAnd another\none.<|endoftext|>Never seen."
    examples = [Example("x", (text,))]
    corpus = make_corpus("e2e", [text], examples, examples, stop)
    assert corpus.hypotheses == (expected,)
    assert corpus.references == ((expected,),)
