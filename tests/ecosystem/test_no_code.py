"""No code from a model's folder runs, at every place that loads a config, a model or a tokenizer."""

import ast
import io
import json
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, LlamaForCausalLM

import loda
from loda.adapters import LoDAPlus
from loda.errors import LodaError
from loda.lab.base import loading
from loda.lab.base.files import locate
from loda.lab.base.model import cost_by_shape, load_base
from loda.lab.config import ModelConfig
from tests.conftest import REPOSITORY
from tests.ecosystem.models import tiny
from tests.lab.test_gguf import SHAPE, write_gguf
from tests.library.models import logits

CODE = "evil_code"
AUTO_MAP = {
    "AutoConfig": f"{CODE}.Config",
    "AutoModelForCausalLM": f"{CODE}.Model",
    "AutoTokenizer": [f"{CODE}.Tokenizer", f"{CODE}.Tokenizer"],
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A base whose folder names a Python file that would leave a trace, and a user who agrees to everything."""
    monkeypatch.setenv("LODA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tmp_path / "base"
    tiny("llama").save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / f"{CODE}.py").write_text(f"""
open({str(tmp_path / "trace")!r}, "w").write("ran")
from transformers import LlamaConfig, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
class Config(LlamaConfig): model_type = "evil"
""")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": AUTO_MAP, "tokenizer_class": "Tokenizer"}))
    yield folder
    assert not (tmp_path / "trace").exists()


def rename(folder, kind):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"auto_map": AUTO_MAP, "model_type": kind}))


def test_a_planted_file_runs_where_transformers_is_let(planted):
    """So the tests below would notice."""
    rename(planted, "evil")
    trace = planted.parent / "trace"
    AutoConfig.from_pretrained(planted)
    trace.unlink()


@pytest.mark.parametrize("kind", ["llama", "evil"])
def test_a_base_never_runs_code(planted, kind):
    rename(planted, kind)
    config = ModelConfig("local", path=str(planted))
    doors = [
        lambda: load_base(config, locate(config)),
        lambda: cost_by_shape(config, loda.LodaConfig(LoDAPlus())),
        lambda: loading.load_model(planted),
        lambda: loading.load_tokenizer(planted),
    ]
    if kind == "llama":  # transformers has code for this kind, and takes that, but none for the tokenizer
        for door in doors[:-1]:
            door()
    for door in doors if kind == "evil" else doors[-1:]:
        with pytest.raises(LodaError, match="needs Python code of its own"):
            door()


def test_a_gguf_file_beside_such_a_folder_never_runs_code(planted):
    rename(planted, "evil")
    torch.manual_seed(0)
    file = write_gguf(planted / "base.gguf", LlamaForCausalLM(SHAPE))
    (planted / "tokenizer.json").unlink()
    with pytest.raises(LodaError, match="needs Python code of its own"):
        locate(ModelConfig("gguf_test", path=str(file)))


def test_an_adapter_in_the_folder_of_a_base_is_refused_and_not_put_into_it(planted):
    get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(
        planted
    )
    config = ModelConfig("local", path=str(planted))
    with pytest.raises(LodaError, match=r"holds an adapter_config\.json"):
        load_base(config, planted)
    (planted / "adapter_config.json").unlink()
    assert torch.equal(logits(load_base(config, planted)), logits(tiny("llama")))


def test_there_is_one_place_that_lets_transformers_load():
    methods = {"from_pretrained", "from_config", "pipeline"}
    harmless = ("loda.", "cls.", "PeftConfig.")  # adapters, which name no code
    for folder in ("loda", "scripts", "eval", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            found = [ast.unparse(call) for call in calls if getattr(call, "attr", getattr(call, "id", "")) in methods]
            others = [name for name in found if not name.startswith(harmless)]
            assert path.name == "loading.py" or not others, (path, others)
