"""The baselines of the paper: what fine-tuning trains, where bottlenecks stand, what a prefix is and keeps."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache, GPT2Config, GPT2Model

import loda
from loda.adapter_files import TENSOR_FILE
from loda.adapters import FineTune, FineTuneTop2, FullRank, Houlsby, Lin, Prefix
from loda.adapters.insertion import insertions
from loda.approx import LowRank, Sparse
from loda.errors import LodaError
from tests.library.models import TOKENS, logits, perturb, state, tiny_gpt2, train


def injected(adapter, approx=None, **sizes):
    config = loda.LodaConfig(adapter, approx) if approx else loda.LodaConfig(adapter)
    return loda.inject(tiny_gpt2(**sizes), config)


# Fine-tuning


@pytest.mark.parametrize("adapter", [FineTune(), FineTuneTop2()], ids=["finetune", "finetune_top2"])
def test_fine_tuning_leaves_the_weights_it_was_given_alone(adapter):
    # They may be shared with another model.
    model = tiny_gpt2()
    given = dict(model.named_parameters())
    copies = {name: p.detach().clone() for name, p in given.items()}
    train(loda.inject(model, loda.LodaConfig(adapter)))
    assert all(torch.equal(given[name], copy) for name, copy in copies.items())
    loda.unload(model)
    assert all(parameter is given[name] for name, parameter in model.named_parameters())


def test_fine_tuning_is_that_of_plain_pytorch():
    model, plain = injected(FineTune()), tiny_gpt2()
    train(model)
    train(plain)
    assert torch.equal(logits(model), logits(plain))
    assert model.lm_head.weight is model.transformer.wte.weight


def test_the_top_two_blocks_are_trained_and_nothing_else():
    model = injected(FineTuneTop2(), layers=4)
    before = state(model)
    train(model)
    after = state(model)
    changed = {name for name in after if not torch.equal(before[name][0], after[name][0])}
    assert changed == {name for name in after if name.startswith(("transformer.h.2.", "transformer.h.3."))}


@pytest.mark.parametrize("decay", ["zero", "pretrained"])
def test_full_rank_with_decay_to_zero_is_training_the_weight_in_place(decay):
    model, plain = injected(FullRank(decay=decay)), tiny_gpt2()
    weights = {name: p for name, p in plain.named_parameters() if name.endswith("c_attn.weight")}
    for each, trained in ((model, loda.trainable_parameters(model)), (plain, weights)):
        each(TOKENS, labels=TOKENS).loss.backward()
        torch.optim.SGD(trained.values(), lr=0.1, weight_decay=0.5).step()
    for name, weight in weights.items():
        projection = model.get_submodule(name.removesuffix(".weight"))
        for part, adapter in projection.adapters.items():
            sought = projection.slices[part].of(weight)
            found = projection.slices[part].of(projection.base.weight) + adapter.weight()
            assert torch.allclose(found, sought, atol=1e-6) == (decay == "zero")


@pytest.mark.parametrize("approx", [LowRank(rank=8), Sparse(keep=0.5)], ids=["low_rank", "sparse"])
@pytest.mark.parametrize("adapter", [FineTune(), FineTuneTop2()], ids=["finetune", "finetune_top2"])
def test_fine_tuning_over_an_approximation_leaves_it_frozen(adapter, approx):
    model = injected(adapter, approx)
    assert not [name for name in loda.trainable_parameters(model) if "c_attn" in name]
    assert [name for name in loda.trainable_parameters(model) if "c_fc" in name]


# Bottleneck adapters


def test_lin_acts_on_the_output_of_every_block():
    model = perturb(injected(Lin(r=3)))
    assert list(insertions(model)) == ["transformer.h.0.inserted", "transformer.h.1.inserted"]
    block, h = model.transformer.h[1], torch.randn(2, 5, 32)
    a = block.inserted
    plain = tiny_gpt2().transformer.h[1](h)
    normed = (plain - plain.mean(-1, keepdim=True)) / (plain.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    normed = normed * a.norm.weight + a.norm.bias
    expected = plain + (normed @ a.down.weight.T + a.down.bias).clamp(min=0) @ a.up.weight.T + a.up.bias
    torch.testing.assert_close(block(h), expected, rtol=1e-4, atol=1e-4)


def test_houlsby_acts_on_both_sub_layers_before_they_join_the_residual_stream():
    model, plain = perturb(injected(Houlsby(r=3))), tiny_gpt2()
    block, base, x = model.transformer.h[0], plain.transformer.h[0], torch.randn(2, 5, 32)

    def adapted(adapter, y):
        hidden = torch.nn.functional.gelu(y @ adapter.down.weight.T + adapter.down.bias)
        return y + hidden @ adapter.up.weight.T + adapter.up.bias

    h = x + adapted(block.attn.c_proj.inserted, base.attn(base.ln_1(x))[0])
    h = h + adapted(block.mlp.c_proj.inserted, base.mlp(base.ln_2(h)))
    torch.testing.assert_close(block(x), h, rtol=1e-4, atol=1e-4)
    assert len(insertions(model)) == 4


# The prefix


def reference_logits(model, tokens, shift=True):
    """The unhooked model over a cache that holds the prefix, as Li & Liang call it."""
    prefix = model.transformer.inserted().detach()
    base, cache = tiny_gpt2(), DynamicCache()
    for layer in range(prefix.shape[1]):
        keys, values = (prefix[:, layer, part].transpose(0, 1)[None] for part in (0, 1))
        cache.update(keys.expand(len(tokens), -1, -1, -1), values.expand(len(tokens), -1, -1, -1), layer)
    positions = None if shift else torch.arange(tokens.shape[1])[None]
    with torch.no_grad():
        return base(tokens, past_key_values=cache, position_ids=positions).logits


@pytest.mark.parametrize("shift", [True, False])
def test_a_prefix_is_past_keys_and_values_of_every_layer(shift):
    # Without position ids the base counts on from the length of its cache, which is what Li & Liang's code relies on.
    model = perturb(injected(Prefix(length=3, shift_positions=shift)))
    torch.testing.assert_close(logits(model), reference_logits(model, TOKENS, shift), rtol=1e-5, atol=1e-5)


def test_the_bare_transformer_takes_a_prefix_as_well():
    whole = perturb(injected(Prefix(length=3)))
    bare = GPT2Model(whole.config).eval()
    bare.load_state_dict(tiny_gpt2().transformer.state_dict())
    perturb(loda.inject(bare, loda.LodaConfig(Prefix(length=3))))
    with torch.no_grad():
        embedded = bare(inputs_embeds=bare.wte(TOKENS)).last_hidden_state
        assert torch.equal(bare(TOKENS).last_hidden_state, embedded)
        torch.testing.assert_close(whole.lm_head(embedded), logits(whole))


def test_a_prefix_works_with_every_attention_of_the_base():
    model = perturb(injected(Prefix(length=3)))
    outputs = logits(model)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model), outputs, rtol=1e-5, atol=1e-5)


def test_only_the_prefix_is_kept_and_it_is_what_the_mlp_produced(tmp_path):
    model = perturb(injected(Prefix(length=3, hidden=7)))
    # an embedding of 3 x 32, and 32 -> 7 -> 2 layers x 2 x 32 with biases, as in Li & Liang
    assert sum(p.numel() for p in loda.trainable_parameters(model).values()) == 3 * 32 + 33 * 7 + 8 * 128
    trained = set(loda.trainable_parameters(model))
    loda.save_pretrained(model, tmp_path)
    assert set(loda.trainable_parameters(model)) == trained
    (kept,) = load_file(tmp_path / TENSOR_FILE).values()
    assert kept.shape == (3, 2 * 2 * 32)
    assert loda.cost(model).trainable_parameters == kept.numel()
    prefix = model.transformer.inserted
    mlp, embedding = prefix.mlp, prefix.embedding
    expected = torch.tanh(embedding @ mlp[0].weight.T + mlp[0].bias) @ mlp[2].weight.T + mlp[2].bias
    torch.testing.assert_close(kept, expected.detach())


def test_a_loaded_prefix_can_be_trained_saved_and_unloaded(tmp_path):
    model = injected(Prefix(length=3))
    loda.save_pretrained(model, tmp_path / "first")
    loaded = loda.from_pretrained(tiny_gpt2(), tmp_path / "first")
    before = logits(loaded)
    train(loaded)
    assert not torch.equal(logits(loaded), before)
    loda.save_pretrained(loaded, tmp_path / "second")
    again = loda.from_pretrained(tiny_gpt2(), tmp_path / "second")
    assert torch.equal(logits(again), logits(loaded))
    assert torch.equal(logits(loda.unload(again)), logits(tiny_gpt2()))


def test_a_prefix_that_takes_more_positions_than_there_are_is_refused():
    tokens = torch.zeros(1, 30, dtype=torch.long)  # the tiny model has 32 positions
    injected(Prefix(length=2))(tokens)
    with pytest.raises(LodaError, match="a prefix of 3 and 30 tokens exceed the model's 32 positions"):
        injected(Prefix(length=3))(tokens)
    injected(Prefix(length=3, shift_positions=False))(tokens)


def test_a_prepared_attention_mask_hides_no_prefix():
    model = perturb(injected(Prefix(length=3)))
    causal = torch.ones(12, 12, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    hidden = torch.zeros(causal.shape).masked_fill(~causal, float("-inf"))
    with torch.no_grad():
        for mask in (causal, hidden):
            torch.testing.assert_close(model(TOKENS, attention_mask=mask).logits, logits(model), rtol=1e-5, atol=1e-5)


def test_what_would_lose_a_prefix_is_refused():
    model = injected(Prefix()).train()
    with pytest.raises(LodaError, match=r"attention mask of .* Tensor of \(2, 12, 12\)"):
        model(TOKENS, attention_mask=torch.ones(2, 12, 12, dtype=torch.bool))
    with pytest.raises(LodaError, match=r"call model\.generate"):
        model(TOKENS, cache="the paged cache of generate_batch")
    model.gradient_checkpointing_enable()
    with pytest.raises(LodaError, match="gradient checkpointing drops the cache"):
        model(TOKENS)
    model.eval()(TOKENS)
    crossed = GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, add_cross_attention=True))
    with pytest.raises(LodaError, match="cross-attention"):
        loda.inject(crossed, loda.LodaConfig(Prefix()))
