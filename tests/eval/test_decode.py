"""What the model is given to decode, and that every method of the tables goes through the same beam search."""

import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import loda
from eval import pipeline
from eval.decode.beam import beam_search
from eval.decode.stage import encode_prompts, round_to_bf16
from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.config import compose
from loda.lab.data import Instance, load
from loda.lab.run import Run
from tests.library.models import ADAPTERS, VOCABULARY, perturb, tiny_gpt2

ONE_SHOT = ["adapter=none", "decode=one_shot"]
CONTEXT = "name : Blue Spice | Type : coffee shop | price : £ 20 - 25"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SHIPPED)


def test_the_one_shot_prompt_is_the_papers(shared):
    """Its footnote 4, then the context in the prompt's own format: no space before the colon."""
    paper = (shared / "paper" / "loda_tr2025-130.txt").read_text()
    (verbatim,) = re.findall(r'"(Generate a restaurant description from the table\..*?this table: )"', paper)
    text = compose(ONE_SHOT).decode.prompt.render(CONTEXT)
    assert text == verbatim + "name: Blue Spice | Type: coffee shop | price: £ 20 - 25"


def test_the_one_shot_prompt_is_encoded_as_one_text_without_separator(tokenizer):
    decode = compose(ONE_SHOT).decode
    (ids,) = encode_prompts(tokenizer, [Instance(CONTEXT, ())], decode, 256)
    assert tokenizer.decode(ids) == decode.prompt.render(CONTEXT)


def test_the_prompt_is_part_of_how_a_run_was_decoded():
    keys = {
        Run(compose(["model=toy", "dataset=toy", *overrides])).decode_key
        for overrides in (
            ["adapter=none"],
            ONE_SHOT,
            [*ONE_SHOT, "decode.prompt.append_eos=true"],
            [*ONE_SHOT, "decode.prompt.key_value_separator=' : '"],
            [*ONE_SHOT, "decode.prompt.template='Say {context}'"],
        )
    }
    assert len(keys) == 5


def test_rounding_to_bf16_gives_the_model_that_transformers_loads_in_bf16(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, rope_theta=1e5, **sizes)).eval()
    model.save_pretrained(tmp_path)
    round_to_bf16(model)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    tokens = torch.arange(60)[None] % VOCABULARY
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)


def test_8_bit_products_off_the_cpu_are_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(pipeline, "pick_device", lambda device: torch.device("cuda"))
    run = Run(compose(["model=toy", "dataset=toy", "decode.optimized=true", "decode.int8=true"]))
    with pytest.raises(LodaError, match=r"decode\.int8=true multiplies on the CPU alone, not on cuda"):
        pipeline.check(run)


def test_a_prompt_that_would_be_cut_is_refused(tokenizer):
    examples = load("toy", "test")
    assert len(encode_prompts(tokenizer, examples, compose(ONE_SHOT).decode, 256)) == len(examples)
    with pytest.raises(LodaError, match=r"makes prompts of up to \d+ tokens, .*max_length=128 .* leaves 64"):
        encode_prompts(tokenizer, examples, compose(ONE_SHOT).decode, 128)


@pytest.mark.parametrize("template", ["no place for it", "{context} {context}"])
def test_a_template_without_one_place_for_the_context_is_refused(template):
    with pytest.raises(LodaError, match=r"must contain \{context\} exactly once"):
        compose([*ONE_SHOT, f"decode.prompt.template='{template}'"])


PROMPTS = [torch.randint(1, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (9, 3, 6)]


def search(model, batch_size):
    return beam_search(
        model,
        PROMPTS,
        num_beams=4,
        max_new_tokens=10,
        length_penalty=0.9,
        no_repeat_ngram_size=4,
        eos_token_ids=[0],
        batch_size=batch_size,
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_method_decodes_the_same_alone_and_in_a_batch(adapter):
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(ADAPTERS[adapter])))
    alone, together = search(model, 1), search(model, 3)
    assert [one.tokens for one in alone] == [one.tokens for one in together]
    assert [one.score for one in alone] == pytest.approx([one.score for one in together], rel=1e-5)
