"""Your own data and base through the whole harness, offline: dataset=jsonl dataset.path=... model.path=..."""

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForCausalLM

import loda
from eval.model_card import card
from eval.pipeline import check, complete
from loda.atomic import discard_folder, sha256
from loda.errors import LodaError
from loda.lab.base import files as base_files
from loda.lab.base.approximation import get_approximation
from loda.lab.base.files import SHIPPED, locate
from loda.lab.base.model import Base, get_base, load_base
from loda.lab.base.tokenizer import END_OF_TEXT, load_tokenizer, token_id
from loda.lab.config import Experiment, ModelConfig, compose
from loda.lab.data import Pair, load, load_pairs
from loda.lab.data.source import blob_id
from loda.lab.run import Run
from loda.lab.training.examples import encode, training_examples
from loda.settings import load as read
from tests.conftest import run_experiment
from tests.ecosystem.models import SETTINGS

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
        instances = load("toy", split)[:10]
        write(folder / f"{split}.jsonl", [{"context": i.context, "references": i.references} for i in instances])
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
    run = Run(experiment)
    return experiment, record, run.checkpoint(run.checkpoints[-1]).path


def test_own_data_and_base_are_trained_decoded_and_scored(run, base):
    experiment, record, _ = run
    assert set(record.scores) == {"BLEU", "ROUGE_L", "LOSS"}
    assert (record.contexts, record.model, record.dataset) == (10, base.name, "jsonl")
    assert read(Experiment, json.loads(json.dumps(record.settings))) == experiment


def test_the_folder_of_the_adapter_is_ready_for_the_hub(run, base):
    _, record, folder = run
    found = ModelCard.load(folder / "README.md")
    assert found.data.library_name == "loda"
    assert "peft" not in found.data.tags  # which cannot read it
    assert found.data.base_model is None  # this one is no repository of the hub
    assert (found.data.license, "TR2025-130" in found.data.to_dict()["paper"]) == ("other", True)
    machine = str(base.parent).encode()
    assert not [path for path in folder.rglob("*") if path.is_file() and machine in path.read_bytes()]
    assert {result.metric_type: result.metric_value for result in found.data.eval_results} == record.scores
    assert f"{record.cost.trainable_parameters:,}" in found.text
    # The lines of the card that load the adapter do.
    code = found.text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(code.replace(f'"{base.name}"', f'"{base}"').replace('"FOLDER"', f'"{folder}"'), names)
    assert loda.cost(names["model"]).trainable_parameters == record.cost.trainable_parameters


def test_a_bar_in_a_setting_keeps_the_table_of_the_card_whole(run):
    _, record, _ = run
    decode = record.settings["decode"] | {"stop": ["|", "</s>"]}
    model = record.settings["model"] | {"hub_id": "openai-community/gpt2", "revision": "6dcaa7a"}
    assert "base_model" not in card(replace(record, settings=record.settings | {"model": model}))  # it read a folder
    model |= {"path": None}
    text = card(replace(record, settings=record.settings | {"decode": decode, "model": model}))
    rows = [line for line in text.partition("## Cost and settings")[2].splitlines() if line.startswith("|")]
    assert any(r"\|" in row for row in rows)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert ModelCard(text).data.base_model == "openai-community/gpt2"


def test_only_what_the_files_hold_names_a_run(data, base, tmp_path):
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    names = [Run(compose(settings(folder, base, tmp_path))).name for folder in (data, moved)]
    assert names[0] == names[1]
    write(moved / "valid.jsonl", LINES)
    assert Run(compose(settings(moved, base, tmp_path))).name != names[0]


def test_the_end_of_text_token_is_the_bases_own(base):
    tokenizer = load_tokenizer(base)
    assert token_id(tokenizer, END_OF_TEXT) == 0
    example = encode(tokenizer, Pair("a</s>b", "c"), 64)
    assert example.ids[example.prompt_length - 1] == example.ids[-1] == 0
    # In a text it is ordinary text, as GPT-2's is: no text ends an example early.
    assert example.ids.count(0) == 2
    pair = Pair("name : Blue Spice", "It is .")
    assert encode(load_tokenizer(SHIPPED), pair, 64) == encode(tokenizer, pair, 64)


def test_the_end_of_text_token_is_the_one_of_the_configuration(tmp_path):
    # As in Qwen's chat models, whose vocabulary holds GPT-2's name for a token that ends nothing.
    text = (SHIPPED / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text.replace('"eos_token_id": 0', '"eos_token_id": 7'), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    tokenizer, plain = load_tokenizer(tmp_path), load_tokenizer(SHIPPED)
    assert (token_id(tokenizer, END_OF_TEXT), token_id(plain, END_OF_TEXT)) == (7, 0)
    example, other = (encode(reader, Pair("name : Blue Spice", "It is ."), 64) for reader in (tokenizer, plain))
    assert example.ids == [7 if number == 0 else number for number in other.ids]


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
    assert str(error.value).startswith(f"{tmp_path / 'train.jsonl'}: line 2: ")
    assert sentence in str(error.value)
    assert "line 4" in str(error.value)


def test_examples_that_train_nothing_are_counted(base, tmp_path):
    def read_examples(lines: list[dict[str, object]]) -> None:
        write(tmp_path / "train.jsonl", lines)
        overrides = ["dataset.max_length=16", "decode.max_new_tokens=8"]
        training_examples(Run(compose([*settings(tmp_path, base, tmp_path), *overrides])), load_tokenizer(SHIPPED))

    long = {"prompt": "a " * 20, "completion": "b ."}
    with pytest.warns(UserWarning, match=r"in 1 of 3 training examples the context alone fills dataset\.max_length=16"):
        read_examples([long, *({"prompt": letter, "completion": "d ."} for letter in "ce")])
    with pytest.raises(LodaError, match="in 1 of 1 training examples"):
        read_examples([long])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset=jsonl", "model=toy"], "give their folder as dataset.path=FOLDER"),
        (["dataset=jsonl", "dataset.path=nowhere", "model=toy"], r"train.jsonl \(or train.jsonl.gz\) is not in"),
        (["dataset=toy", "dataset.metrics=[bleus]", "model=toy"], "'bleus' is not a metric; there are"),
        (["dataset=toy", "model=local"], "model needs a path"),
    ],
    ids=["no folder", "no file", "no metric", "no model"],
)
def test_what_is_missing_is_said_before_anything_heavy(overrides, sentence, tmp_path):
    with pytest.raises(LodaError, match=sentence):
        run_experiment(compose([*overrides, f"outputs={tmp_path}"]))


@pytest.mark.parametrize("approx", ["low_rank", "sparse"])
def test_each_kind_of_approximation_is_stored_apart(approx, data, base, tmp_path):
    """q, k and v together or each alone, and other modules, have tensors of the same names and shapes."""
    common = [*settings(data, base, tmp_path), f"approx={approx}", *(["approx.rank=8"] if approx == "low_rank" else [])]
    loaded = Base(compose(common).model, base, Run(compose(common)).base_key)
    for change in ([], ["joint=true"], ["targets=[mlp.down_proj]"], []):
        run = Run(compose([*common, *change]))
        (_, stored), fresh = get_approximation(run, loaded), loda.approximate(loaded.model, run.experiment.method)
        assert stored is not None
        assert stored.keys() == fresh.keys()
        assert all(torch.equal(stored[name], fresh[name]) for name in fresh)
    assert len(list((tmp_path / "approximations").iterdir())) == 3


def test_a_file_that_changes_while_a_run_reads_it_is_refused_and_nothing_is_kept_of_it(data, base, tmp_path):
    mine = Path(shutil.copytree(data, tmp_path / "data"))
    run = Run(compose(settings(mine, base, tmp_path / "outputs")))
    write(mine / "train.jsonl", LINES)
    with pytest.raises(LodaError, match=r"changed while .* was read from them"):
        complete(run)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_base_that_changes_before_it_is_loaded_is_refused(data, base, tmp_path):
    mine = Path(shutil.copytree(base, tmp_path / "base"))
    run = Run(compose(settings(data, mine, tmp_path / "outputs")))
    loaded = get_base(run.experiment.model, mine, run.base_key)
    config = mine / "config.json"
    config.write_text(config.read_text().replace("}", " }"))
    with pytest.raises(LodaError, match=r"model.path=.* changed meanwhile"):
        _ = loaded.model


def test_a_file_in_the_hubs_cache_that_is_not_its_blob_is_refused(base, tmp_path, monkeypatch):
    snapshot, blobs = tmp_path / "snapshots" / "6dcaa7a", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in base_files.FILES:
        content = (base / name).read_bytes()
        blob = blobs / (sha256(base / name) if name.endswith("safetensors") else blob_id(content))
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(base_files, "snapshot_download", lambda *arguments, **options: str(snapshot))
    config = ModelConfig("mine", hub_id="someone/mine", revision=40 * "0")
    assert base_files.locate(config) == snapshot
    for name in base_files.FILES:
        blob = (snapshot / name).resolve()
        whole = blob.read_bytes()
        blob.write_bytes(whole + b" ")
        with pytest.raises(LodaError, match=rf"{blob.name} was changed after its download"):
            base_files.locate(config)
        blob.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["decode.length_penalty=1e5"], "length_penalty=100000.0 with max_new_tokens"),
        (["decode.num_beams=100000"], "decode.num_beams=100000 exceeds the"),
    ],
)
def test_a_decoding_that_cannot_be_is_refused_before_the_training(change, sentence, data, base, tmp_path):
    with pytest.raises(LodaError, match=sentence):
        check(Run(compose([*settings(data, base, tmp_path / "outputs"), *change])))


@pytest.mark.parametrize(
    ("references", "sentence"),
    [(["a"] * 1001, "1,001 references, more than 1,000"), (["a " * 10_001], "20,001 characters, more than 20,000")],
    ids=["references", "characters"],
)
def test_references_that_cannot_be_scored_are_refused_before_the_training(references, sentence, data, base, tmp_path):
    mine = Path(shutil.copytree(data, tmp_path / "data"))
    write(mine / "test.jsonl", [{"context": "a", "references": references}])
    with pytest.raises(LodaError, match=sentence):
        check(Run(compose(settings(mine, base, tmp_path / "outputs"))))


@pytest.mark.parametrize(
    "content", ["null", "[]", "[" * 10**5, '{"n_head": 0}', '{"vocab_size": -5}', '{"n_embd": 1000000000000}']
)
def test_a_base_of_which_no_model_can_be_made_is_refused_in_a_sentence(content, data, tmp_path):
    mine = Path(shutil.copytree(SHIPPED, tmp_path / "base"))
    known = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps(known | json.loads(content)) if content[0] == "{" else content)
    with pytest.raises(LodaError, match=r"config.json"):
        check(Run(compose(settings(data, mine, tmp_path / "outputs"))))


@pytest.mark.parametrize("named", ['{"a": 1}', "[]", "5", "{}", '{"a": "../elsewhere.safetensors"}'])
def test_an_index_of_weights_names_files_beside_it(named, data, base, tmp_path):
    mine = Path(shutil.copytree(base, tmp_path / "base"))
    (mine / "model.safetensors").unlink()
    (mine / base_files.SHARDS).write_text(f'{{"weight_map": {named}}}')
    with pytest.raises(LodaError, match="has no weight_map that names the files of weights beside it"):
        Run(compose(settings(data, mine, tmp_path / "outputs")))


def test_a_name_on_the_hub_is_no_folder_and_the_message_says_how_to_get_one(data, tmp_path):
    overrides = [*settings(data, Path("openai-community/gpt2"), tmp_path / "outputs")]
    with pytest.raises(LodaError, match=r"hf download openai-community/gpt2 --local-dir FOLDER"):
        Run(compose(overrides))


def test_a_package_of_a_base_is_a_name_and_a_version(tmp_path):
    wheel = {"requirement": str(tmp_path), "sha256": "0", "file": "f", "file_sha256": "0"}
    with pytest.raises(LodaError, match=r"wheel.requirement=.* should match pattern"):
        read(ModelConfig, {"name": "mine", "wheel": wheel})


def test_a_calibrated_run_is_decoded_and_loads_outside(data, base, tmp_path):
    calibrated = ["approx=low_rank", "approx.rank=8", "approx.calibration=2", "targets=all"]
    overrides = [*settings(data, base, tmp_path / "outputs"), *calibrated]
    run = Run(compose(overrides))
    (record,) = run_experiment(run.experiment)
    assert "-low_rank8-calibration2-" in record.run
    folder = run.checkpoint(run.checkpoints[-1]).path
    loaded = loda.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    assert loda.cost(loaded) == record.cost
    mine = Path(shutil.copytree(data, tmp_path / "data"))
    write(mine / "train.jsonl", LINES)
    changes = ["approx.calibration=3", "approx.damping=0.01", f"dataset.path={mine}"]
    others = [Run(compose([*overrides, change])) for change in changes]
    assert len({each.approximation().place for each in (run, *others)}) == 4


def test_a_planned_run_has_the_ranks_of_its_plan_and_shares_it(data, base, tmp_path, monkeypatch):
    auto = ["approx=auto", "approx.budget=0.5", "approx.calibration=2", "targets=all", "joint=true"]
    run, other = (
        Run(compose([*settings(data, base, tmp_path / "outputs"), *auto, f"adapter={name}"]))
        for name in ("loda_plus", "lora")
    )
    (record,) = run_experiment(run.experiment)
    plan, approximation = run.plan(), run.approximation()
    content = json.loads((plan.path / "plan.json").read_text())
    assert content["share"] == pytest.approx(0.5, abs=0.05)
    ranks = {name: module["rank"] for module in content["modules"] for name in module["modules"]}
    folder = run.checkpoint(run.checkpoints[-1]).path
    assert json.loads((folder / "adapter_config.json").read_text())["approx"]["rank_pattern"] == ranks
    loaded = loda.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    assert loda.cost(loaded) == record.cost
    written = approximation.find().digest
    monkeypatch.setattr(loda, "plan", lambda *args: pytest.fail("planned again"))
    run_experiment(other.experiment)
    assert other.approximation().find().digest == written
    discard_folder(approximation.path)  # made again from the plan that is there
    get_approximation(run, get_base(run.experiment.model, locate(run.experiment.model), run.base_key))
    assert run.approximation().find().inputs == {plan.place: plan.find().digest}


def test_a_file_and_its_compressed_copy_are_two_files(data, base, tmp_path):
    mine = Path(shutil.copytree(data, tmp_path / "data"))
    (mine / "test.jsonl.gz").write_bytes(gzip.compress((mine / "test.jsonl").read_bytes()))
    with pytest.raises(LodaError, match=r"holds test.jsonl and test.jsonl.gz, which may differ; remove one"):
        check(Run(compose(settings(mine, base, tmp_path / "outputs"))))
