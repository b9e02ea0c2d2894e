"""GGUF files as bases: the numbers of the original model, its texts as the original splits them, and refusals."""

import hashlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from loda.errors import LodaError
from loda.lab.base.files import identity, locate
from loda.lab.base.model import load_base
from loda.lab.config import ModelConfig, WheelConfig

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "ab", "Ġ4", "44"]
MERGES = ["a b", "Ġ 4", "4 4"]
SHAPE = LlamaConfig(vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, eos_token_id=2,
                    tie_word_embeddings=True)  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LODA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(SHAPE).eval()


def interleaved(weight, heads):
    """The rows of q and k as llama.cpp orders them: the two halves of each head take turns."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, quantisation=GGMLQuantizationType.F32, split="smollm", architecture="llama"):
    writer = GGUFWriter(path, architecture)
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, config.num_attention_heads if "q_" in name else config.num_key_value_heads)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        kind = quantisation if weight.ndim == 2 and quantisation != GGMLQuantizationType.F32 else None
        data = quantize(weight, kind) if kind is not None else np.ascontiguousarray(weight)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def base_of(path) -> ModelConfig:
    return ModelConfig("gguf_test", path=str(path))


def logits(model):
    return model(torch.arange(3, 40)[None]).logits


@torch.no_grad()
def test_the_base_is_the_original_model(original, tmp_path):
    config = base_of(write_gguf(tmp_path / "base.gguf", original))
    model = load_base(config, locate(config))
    torch.testing.assert_close(logits(model), logits(original), rtol=0, atol=1e-6)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@torch.no_grad()
def test_quantised_weights_become_the_numbers_that_they_stand_for(original, tmp_path):
    config = base_of(write_gguf(tmp_path / "base.gguf", original, GGMLQuantizationType.Q8_0))
    q = load_base(config, locate(config)).model.layers[0].self_attn.q_proj.weight
    expected = original.model.layers[0].self_attn.q_proj.weight
    step = expected.abs().max() / 127  # of Q8_0, for the largest block
    assert 0 < (q - expected).abs().max() <= step


def test_it_is_converted_once_and_the_result_is_an_ordinary_folder(original, tmp_path):
    config = base_of(write_gguf(tmp_path / "base.gguf", original))
    folder = locate(config)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert locate(config) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "llama"


@pytest.mark.parametrize(("split", "tokens"), [("smollm", ["Ġ", "4", "4", "ab"]), ("gpt-2", ["Ġ4", "4", "ab"])])
def test_digits_are_split_as_the_file_says(original, tmp_path, split, tokens):
    config = base_of(write_gguf(tmp_path / "base.gguf", original, split=split))
    tokenizer = Tokenizer.from_file(str(locate(config) / "tokenizer.json"))
    assert tokenizer.encode(" 44ab").tokens == tokens


def test_a_tokenizer_beside_the_file_is_taken_and_is_part_of_the_identity(original, tmp_path):
    config = base_of(write_gguf(tmp_path / "base.gguf", original, split="llama-bpe"))
    with pytest.raises(LodaError, match=r"splits texts by the rule 'llama-bpe'.*put the original tokenizer.json"):
        locate(config)
    before = identity(config)
    own = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    own.save(str(tmp_path / "tokenizer.json"))
    assert identity(config) != before
    assert Tokenizer.from_file(str(locate(config) / "tokenizer.json")).get_vocab() == {"a": 0}


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all"])
def test_what_is_no_gguf_is_refused(tmp_path, content):
    path = tmp_path / "base.gguf"
    path.write_bytes(content)
    with pytest.raises(LodaError, match=r"base\.gguf is not a GGUF file that transformers can read"):
        locate(base_of(path))


def test_a_truncated_file_and_a_missing_one_are_refused(original, tmp_path):
    path = write_gguf(tmp_path / "base.gguf", original)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LodaError, match="is not a GGUF file"):
        locate(base_of(path))
    with pytest.raises(LodaError, match=r"model.path=.*nowhere.gguf is not there"):
        locate(base_of(tmp_path / "nowhere.gguf"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_base_in_a_wheel_is_checked_and_is_that_of_the_file(original, tmp_path):
    file = write_gguf(tmp_path / "base.gguf", original)
    wheel = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "carrier/base.gguf")
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(
            "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    carried = WheelConfig(str(wheel), sha256(wheel), "carrier/base.gguf", sha256(file))
    config = ModelConfig("gguf_test", wheel=carried)
    assert identity(config) == identity(base_of(file))
    assert locate(config) == locate(base_of(file))
    for wrong in (replace(carried, sha256="0" * 64), replace(carried, file_sha256="0" * 64)):
        with pytest.raises(LodaError, match=r"has the sha256 .* instead of 000000000000"):
            locate(ModelConfig("another", wheel=wrong))
    absent = replace(carried, requirement=str(tmp_path / "absent-1.0-py3-none-any.whl"))
    with pytest.raises(LodaError, match=r"could not be downloaded.*give it as model.path=FILE.gguf"):
        locate(ModelConfig("absent", wheel=absent))
