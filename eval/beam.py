"""`from eval.beam import beam_search`: the beam search by its short name."""

from eval.decode.beam import Hypothesis as Hypothesis
from eval.decode.beam import beam_search as beam_search
