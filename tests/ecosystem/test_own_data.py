"""One's own data and base through the whole harness, offline: dataset=jsonl dataset.path=... model.path=..."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from loda.lab.fingerprint import data_key
from loda.lab.training.stage import frozen_tensors
from transformers import AutoConfig, AutoModelForCausalLM

import loda
from eval.decode.beam import beam_search
from eval.pipeline import run_experiment
from loda.errors import LodaError
from loda.lab.base.files import SHIPPED, locate
from loda.lab.base.model import END_OF_TEXT, PACKABLE, _configuration, load_base, load_tokenizer, preflight, token_id
from loda.lab.config import Experiment, compose, restore
from loda.lab.data import Pair, load, load_pairs
from loda.lab.run import Outputs
from loda.lab.training.examples import Row, collate, encode, encoded
from loda.lab.training.loss import target_loss
from loda.lab.training.packing import make_fast, pack
from loda.model import approximate
from scripts.figure2 import projections_of_blocks
from tests.ecosystem.models import SETTINGS, TOKENS, tiny

WINDOWED = ["mistral", "phi3", "qwen2", "qwen3", "gemma3_text"]
WIDE = {"sliding_window": 16}
LINES = [{"context": "a : b", "references": ["one .", "two ."]}, {"prompt": "c : d", "completion": "three ."}]


def write(path: Path, entries: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The toy data, the first contexts of each split, as a user would write them."""
    folder = tmp_path_factory.mktemp("my_data")
    for split in ("train", "valid", "test"):
        examples = load("toy", split)[:10]
        write(folder / f"{split}.jsonl", [{"context": e.context, "references": e.references} for e in examples])
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A Llama of its own, with grouped queries, whose tokenizer calls the end of a text </s>."""
    folder = tmp_path_factory.mktemp("my_model")
    sizes = {**SETTINGS["llama"], "max_position_embeddings": 128}
    config = AutoConfig.for_model("llama", vocab_size=1280, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = (SHIPPED / "tokenizer.json").read_text(encoding="utf-8").replace(END_OF_TEXT, "</s>")
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return folder


def settings(data: Path, base: Path, outputs: Path) -> list[str]:
    own = ["dataset=jsonl", f"dataset.path={data}", f"model.path={base}", "dataset.metrics=[bleu,rouge_l]"]
    short = ["dataset.max_length=100", "decode.num_beams=2", "decode.max_new_tokens=8", "trainer.max_steps=3"]
    return [*own, *short, f"outputs={outputs}"]


@pytest.fixture(scope="module")
def run(data, base, tmp_path_factory):
    experiment = compose(settings(data, base, tmp_path_factory.mktemp("outputs")))
    (record,) = run_experiment(experiment)
    return experiment, record, Outputs.of(experiment).run(experiment).checkpoint("step-3")


def test_own_data_and_base_are_trained_decoded_and_scored(run, base):
    experiment, record, _ = run
    assert set(record.scores) == {"BLEU", "ROUGE_L"}
    assert (record.contexts, record.model, record.dataset) == (10, base.name, "jsonl")
    assert restore(json.loads(json.dumps(record.settings))) == experiment


def test_the_folder_of_the_adapter_is_ready_for_the_hub(run, base):
    _, record, folder = run
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "loda"
    assert "peft" not in card.data.tags  # which cannot read it
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == record.scores
    assert f"{record.cost.trainable_parameters:,}" in card.text
    assert json.loads((folder / "scores.json").read_text())["scores"] == record.scores
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == record.contexts
    # The lines of the card that load the adapter do.
    code = card.text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(code.replace(f'"{base.name}"', f'"{base}"').replace('"FOLDER"', f'"{folder}"'), names)
    assert loda.cost(names["model"]).trainable_parameters == record.cost.trainable_parameters


def test_only_what_the_files_hold_names_a_run(data, base, tmp_path):
    here = compose(settings(data, base, tmp_path))
    for path in data.iterdir():
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())
    moved = compose(settings(tmp_path / "moved", base, tmp_path))
    assert data_key(here) == data_key(moved)
    write(tmp_path / "moved" / "valid.jsonl", LINES)
    assert data_key(here) != data_key(moved)


def test_the_end_of_text_token_is_the_bases_own(base):
    tokenizer = load_tokenizer(base)
    assert token_id(tokenizer, END_OF_TEXT) == 0
    row = encode(tokenizer, Pair("a</s>b", "c"), 64)
    assert row.ids[row.given - 1] == row.ids[-1] == 0
    # In a text it is text, as GPT-2's is: no one can end a row from within.
    assert row.ids.count(0) == 2
    plain = load_tokenizer(SHIPPED)
    assert encode(plain, Pair("name : Blue Spice", "It is ."), 64) == encode(
        tokenizer, Pair("name : Blue Spice", "It is ."), 64
    )


def test_the_end_of_text_token_is_the_one_of_the_configuration(tmp_path):
    # As in Qwen's chat models, whose vocabulary holds GPT-2's name for a token that ends nothing.
    text = (SHIPPED / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text.replace('"eos_token_id": 0', '"eos_token_id": 7'), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    tokenizer, plain = load_tokenizer(tmp_path), load_tokenizer(SHIPPED)
    assert (token_id(tokenizer, END_OF_TEXT), token_id(plain, END_OF_TEXT)) == (7, 0)
    row, other = (encode(reader, Pair("name : Blue Spice", "It is ."), 64) for reader in (tokenizer, plain))
    assert row.ids == [7 if number == 0 else number for number in other.ids]


def test_a_base_without_an_end_of_text_token_is_refused(base, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        text = (base / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace('"eos_token_id": 0', '"eos_token_id": null'), encoding="utf-8")
    with pytest.raises(LodaError, match="eos_token_id=None"):
        load_tokenizer(tmp_path)


def test_a_base_in_several_files_is_loaded_whole(base, data, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    assert not (tmp_path / "model.safetensors").exists()
    config = compose(settings(data, tmp_path, tmp_path)).model
    loaded = load_base(config, locate(config))
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), model.parameters(), strict=True))
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(LodaError, match="lacks model-00002"):
        locate(config)


@pytest.mark.parametrize("kind", ["gpt_neo", "opt", "bloom", "mistral", "gemma2"])
def test_the_batch_size_of_the_beam_search_changes_nothing(kind):
    # Left padding meets alibi, position offsets and sliding windows here.
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
    rules = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 0.9, "no_repeat_ngram_size": 3}
    alone, together = (beam_search(tiny(kind), prompts, eos_token_ids=[0], batch_size=size, **rules) for size in (1, 3))
    assert [h.tokens for h in alone] == [h.tokens for h in together]


def test_both_forms_of_a_line_are_read(tmp_path):
    write(tmp_path / "train.jsonl", LINES)
    assert load_pairs("jsonl", "train", tmp_path) == [Pair("a : b", t) for t in ("one .", "two .")] + [
        Pair("c : d", "three .")
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "it is not JSON"),
        (b'{"context": "a"', "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b'{"context": "a"}', "references must be a list"),
        (b'{"context": "a", "references": []}', "references must be a list"),
        (b'{"context": "a", "references": ["b", " "]}', 'references must be a text that is not empty, not " "'),
        (b'{"context": 3, "references": ["b"]}', "context must be a text that is not empty, not 3"),
        (b'{"prompt": "a", "references": ["b"]}', "completion must be a text"),
        (b'{"prompt": "a", "context": "b"}', "needs either context and references, or prompt and completion"),
        (b'{"text": "a"}', "needs either context and references, or prompt and completion"),
        (b'{"prompt": "\xff", "completion": "b"}', "it is not UTF-8"),
        (b'{"prompt": "a", "completion": "b \\ud83d"}', 'completion holds "\\ud83d", half of a letter'),
    ],
    ids=repr,
)
def test_a_wrong_line_is_named_by_its_number(line, sentence, tmp_path):
    good = json.dumps(LINES[0]).encode()
    (tmp_path / "train.jsonl").write_bytes(b"\n".join([good, line, good, line, good, b""]))
    with pytest.raises(LodaError) as error:
        load_pairs("jsonl", "train", tmp_path)
    assert str(error.value).startswith(f"train.jsonl in {tmp_path}: line 2: ")
    assert sentence in str(error.value)
    assert "line 4" in str(error.value)


def test_rows_that_train_nothing_are_counted(tmp_path):
    pairs = [Pair("a " * 20, "b ."), Pair("c", "d ."), Pair("e", "f .")]
    read = partial(encoded, tokenizer=load_tokenizer(SHIPPED), max_length=16)
    for _ in range(2):  # when the rows are made, and when they are read again
        with pytest.warns(UserWarning, match=r"in 1 of 3 training rows the context alone fills dataset\.max_length=16"):
            read(tmp_path / "some", pairs=pairs)
    with pytest.raises(LodaError, match="in 1 of 1 training rows"):
        read(tmp_path / "all", pairs=pairs[:1])


# What is checked of a base before its weights are loaded.


def of_base(kind: str, folder: Path, *overrides: str, **sizes: object) -> tuple[Experiment, Path]:
    """An experiment on a base of which there is the configuration alone."""
    tiny(kind, **sizes).config.save_pretrained(folder)
    settings = [
        "dataset=toy",
        "model=local",
        f"model.path={folder}",
        "dataset.max_length=16",
        "decode.max_new_tokens=8",
    ]
    return compose([*settings, *overrides]), folder


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_dropouts_of_a_base_are_switched_off(kind, tmp_path):
    config = tiny(kind).config
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.5)
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(_configuration(tmp_path)).train()
    assert torch.equal(model(TOKENS).logits, model.eval()(TOKENS).logits)


def test_embeddings_may_be_narrower_than_the_blocks(tmp_path):
    # OPT-350m is such a model.
    cost = preflight(*of_base("opt", tmp_path, word_embed_proj_dim=16))
    assert cost.base_macs_per_token == 2 * 3 * 32 * 32


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_loss_is_that_of_the_model_itself(kind):
    # Gemma 2 caps its logits outside of its head.
    model = tiny(kind, **({"final_logit_softcapping": 1.0} if kind == "gemma2" else {}))
    batch = collate([Row(TOKENS[0].tolist(), 4), Row(TOKENS[1, :7].tolist(), 2)])
    labels = batch.inputs.clone()
    labels[:, 1:][~batch.mask[:, :-1]] = -100
    labels[:, 0] = -100
    expected = model(batch.inputs, attention_mask=torch.ones_like(labels), labels=labels).loss.item()
    assert target_loss(model, batch, label_smoothing=0.0).item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("kind", PACKABLE)
def test_packed_rows_have_the_losses_of_padded_ones(kind, tmp_path):
    preflight(*of_base(kind, tmp_path, "trainer.fast=true", **(WIDE if kind in WINDOWED else {})))
    generator = torch.Generator().manual_seed(0)
    rows = [Row(torch.randint(1, 64, (n,), generator=generator).tolist(), n // 2) for n in (9, 16, 6)]
    model, packed = (tiny(kind, **(WIDE if kind in WINDOWED else {})) for _ in range(2))
    make_fast(packed)
    expected = target_loss(model, collate(rows), label_smoothing=0.1).item()
    assert target_loss(packed, pack(rows), label_smoothing=0.1).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", sorted(set(SETTINGS) - set(PACKABLE)))
def test_packed_rows_are_refused_where_they_have_other_losses(kind, tmp_path):
    with pytest.raises(LodaError, match=f"not of {kind}; set trainer.fast=false"):
        preflight(*of_base(kind, tmp_path, "trainer.fast=true"))


@pytest.mark.parametrize("kind", WINDOWED)
def test_packed_rows_are_refused_where_a_window_would_cut_them(kind, tmp_path):
    experiment = of_base(kind, tmp_path, "trainer.fast=true", sliding_window=15)
    with pytest.raises(LodaError, match=r"this base's 15 tokens are fewer than dataset\.max_length=16"):
        preflight(*experiment)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset=jsonl", "model=toy"], "give their folder as dataset.path=FOLDER"),
        (["dataset=jsonl", "dataset.path=nowhere", "model=toy"], r"train.jsonl \(or train.jsonl.gz\) is not in"),
        (["dataset=toy", "dataset.metrics=[bleus]", "model=toy"], "Unknown metric 'bleus': choose among"),
        (["dataset=toy", "model=local"], "model needs a path"),
    ],
    ids=["no folder", "no file", "no metric", "no model"],
)
def test_what_is_missing_is_said_before_anything_heavy(overrides, sentence, tmp_path):
    with pytest.raises(LodaError, match=sentence):
        run_experiment(compose([*overrides, f"outputs={tmp_path}"]))


@pytest.mark.parametrize("approx", ["rank38", "keep40"])
def test_an_approximation_is_kept_apart_for_each_of_its_kinds(approx, data, base, tmp_path):
    """q, k and v together or each alone, and other modules, have tensors of the same names and shapes."""
    common = [*settings(data, base, tmp_path), f"approx={approx}", *(["approx.rank=8"] if approx == "rank38" else [])]
    model, found = load_base(compose(common).model, base), []
    for change in ([], ["joint=true"], ["targets=[mlp.down_proj]"], []):
        experiment = compose([*common, *change])
        kept = frozen_tensors(experiment, model, Outputs.of(experiment))
        fresh = approximate(model, experiment.method)
        assert kept.keys() == fresh.keys()
        assert all(torch.equal(kept[name][key], fresh[name][key]) for name in fresh for key in fresh[name])
        found.append(kept)
    assert len(list(Outputs(tmp_path).frozen.iterdir())) == 3


def test_the_projection_of_a_block_is_q_k_and_v_where_the_base_has_three_modules():
    model = tiny("llama")
    first, second = projections_of_blocks(model)
    attention = model.model.layers[1].self_attn
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert torch.equal(second, torch.cat([part.weight.T for part in parts], dim=1))
    assert first.shape == second.shape
