"""What is written loads: whatever happened to the model, whatever interrupts the saving, in any dtype of the base."""

import copy
import shutil
import sys

import pytest
import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

import loda
from loda.adapter_files import APPROXIMATION_FILE, CONFIG_FILE
from loda.adapters import FineTune, LoDAPlus, LoRA, Prefix
from loda.approx import LowRank, Sparse
from loda.atomic import sha256
from loda.errors import LodaError
from loda.manifest import read_manifest, write_manifest
from loda.model import adapter_parameters
from tests.ecosystem.models import tiny
from tests.library.models import TOKENS, logits, perturb, tiny_gpt2, untouched

CONFIGS = {
    "loda_plus": loda.LodaConfig(LoDAPlus()),
    "low_rank": loda.LodaConfig(LoDAPlus(), LowRank(rank=8)),
    "finetune": loda.LodaConfig(FineTune()),
    "prefix": loda.LodaConfig(Prefix(length=2, hidden=4)),
}
ROUNDING = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float32: 1e-5, torch.float64: 1e-5}


@pytest.fixture(scope="module", autouse=True)
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def resized(model):
    model.resize_token_embeddings(70)
    return model


def parametrised(module, name, model):
    parametrize.register_parametrization(model.get_submodule(module), name, torch.nn.Identity())
    return model


def parametrised_adapter(model):
    name = min(loda.trainable_parameters(model))
    return parametrised(*name.rsplit(".", 1), model)


def trained_unnoticed(model):
    """A part of the base, unfrozen, changed, and frozen again."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    with torch.no_grad():
        for parameter in frozen[:1]:
            parameter.mul_(1.01)
    return model


def diverged(model):
    with torch.no_grad():
        next(iter(loda.trainable_parameters(model).values())).view(-1)[0] = torch.nan
    return model


# What happened to the model since `inject`, and the adapters that are refused after it.
EVERY = set(CONFIGS)
EVENTS = {
    "nothing": (lambda model: model, set()),
    "train": (lambda model: model.train(), set()),
    "freeze": (lambda model: model.requires_grad_(False), set()),
    "deepcopy": (copy.deepcopy, set()),
    "to": (lambda model: model.to("cpu"), set()),
    "fsdp": (lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (1,))), set()),
    "compile": (lambda model: torch.compile(model, backend="eager"), set()),
    "ddp": (DistributedDataParallel, set()),
    # A fresh approximation of the cast weights would be another one.
    "half": (lambda model: model.half(), {"low_rank"}),
    "bfloat16": (lambda model: model.bfloat16(), {"low_rank"}),
    "double": (lambda model: model.double(), {"low_rank"}),
    # All that was cast twice, or trained, is in the folder of a fine-tuned base.
    "half and back": (lambda model: model.half().float(), EVERY - {"finetune"}),
    "base trained": (trained_unnoticed, EVERY - {"finetune"}),
    "base parametrised": (lambda model: parametrised("transformer.ln_f", "weight", model), EVERY),
    "adapter parametrised": (parametrised_adapter, EVERY),
    "diverged": (diverged, EVERY),
    "resized": (resized, EVERY),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_saved_loads_on_a_fresh_base_or_is_refused_and_the_older_adapter_stays(config, event, tmp_path):
    older = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA())))
    loda.save_pretrained(older, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    happens, refused = EVENTS[event]
    model = happens(perturb(loda.inject(tiny_gpt2(), CONFIGS[config])))
    if config in refused:
        with pytest.raises(LodaError):
            loda.save_pretrained(model, tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
        return
    loda.save_pretrained(model, tmp_path)
    dtype = next(model.parameters()).dtype
    expected = logits(getattr(model, "_orig_mod", model).eval()).double()  # compiling the forward pass would take long
    for settings, base in (({}, tiny_gpt2().to(dtype)), ({"any_dtype": True}, tiny_gpt2())):
        found = logits(loda.from_pretrained(base, tmp_path, **settings)).double()
        torch.testing.assert_close(found, expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


def test_a_cast_after_an_approximation_needs_the_approximation_in_the_folder(tmp_path):
    model = perturb(loda.inject(tiny_gpt2(), CONFIGS["low_rank"])).bfloat16()
    with pytest.raises(LodaError, match=r"approximated in float32 and is in bfloat16 now.*with_approximation=True"):
        loda.save_pretrained(model, tmp_path)
    loda.save_pretrained(model, tmp_path, with_approximation=True)
    found = logits(loda.from_pretrained(tiny_gpt2().bfloat16(), tmp_path))
    torch.testing.assert_close(found, logits(model), rtol=ROUNDING[torch.bfloat16], atol=ROUNDING[torch.bfloat16])


RECORD = {"folder": None, "states": []}


def _content(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def _snapshot(event, arguments):
    """Keep the folder as it is before every operation on files, as a kill at that moment would leave it."""
    folder, states = RECORD["folder"], RECORD["states"]
    if folder is not None and event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
        RECORD["folder"] = None  # the copying is not recorded
        state = shutil.copytree(folder, folder.with_name(f"state{len(states)}"))
        if states and _content(state) == _content(states[-1]):
            shutil.rmtree(state)
        else:
            states.append(state)
        RECORD["folder"] = folder


sys.addaudithook(_snapshot)


@pytest.mark.parametrize("with_approximation", [False, True])
def test_wherever_saving_is_killed_the_old_adapter_loads_or_the_new_one(with_approximation, tmp_path):
    configs = loda.LodaConfig(LoDAPlus(), LowRank(rank=8)), loda.LodaConfig(LoRA(), Sparse())
    old, new = (perturb(loda.inject(tiny_gpt2(), config)) for config in configs)
    folder = tmp_path / "adapter"
    loda.save_pretrained(old, folder, with_approximation=not with_approximation)
    RECORD.update(folder=folder, states=[])
    try:
        loda.save_pretrained(new, folder, with_approximation=with_approximation)
    finally:
        RECORD["folder"] = None
    found = [logits(loda.from_pretrained(tiny_gpt2(), state)) for state in RECORD["states"]]
    is_new = [torch.equal(values, logits(new)) for values in found]
    assert all(after or torch.equal(values, logits(old)) for after, values in zip(is_new, found, strict=True))
    assert is_new == sorted(is_new)  # first the old one, then the new one
    assert set(is_new) == {False, True}
    # The next saving completes the interrupted one first, so nothing of either is mixed or left.
    for state in RECORD["states"]:
        loda.save_pretrained(old, state)
        assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), state)), logits(old))
        assert not (state / APPROXIMATION_FILE).exists()


# Another dtype of the same base

HALF = (torch.float16, torch.bfloat16)
PAIRS = [*((half, torch.float32) for half in HALF), *((torch.float32, half) for half in HALF), HALF]


@pytest.mark.parametrize(("trained", "used"), PAIRS, ids=str)
def test_a_base_in_another_dtype_is_taken_if_asked_for(trained, used, tmp_path):
    # Not float32 cast to both: the weights of a half-precision base are the numbers from which the others are made.
    narrow = tiny("llama", dtype=trained if trained in HALF else used)
    model = perturb(loda.inject(copy.deepcopy(narrow).to(trained), loda.LodaConfig(LoDAPlus())))
    loda.save_pretrained(model, tmp_path)
    base = copy.deepcopy(narrow).to(used)
    names = [str(dtype).removeprefix("torch.") for dtype in (trained, used)]
    with untouched(base), pytest.raises(LodaError, match=rf"in {names[0]}, and .* in {names[1]};.*any_dtype=True"):
        loda.from_pretrained(base, tmp_path)
    loaded = loda.from_pretrained(copy.deepcopy(base), tmp_path, any_dtype=True)
    expected = loda.inject(base, loda.LodaConfig(LoDAPlus()))
    with torch.no_grad():
        for name, parameter in adapter_parameters(expected).items():
            parameter.copy_(adapter_parameters(model)[name])
    assert torch.equal(logits(loaded), logits(expected))


def test_another_model_is_refused_in_any_dtype(tmp_path):
    loda.save_pretrained(loda.inject(tiny_gpt2(), loda.LodaConfig(LoDAPlus())), tmp_path)
    tuned, one_number = tiny_gpt2(), tiny_gpt2()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))  # five times bfloat16's rounding
        one_number.get_parameter("transformer.h.1.mlp.c_fc.bias")[3] += 1e-3
    for other in (tiny_gpt2(seed=1).bfloat16(), tiny_gpt2(layers=1), tuned.bfloat16(), tuned, one_number):
        with untouched(other), pytest.raises(LodaError, match="another base model"):
            loda.from_pretrained(other, tmp_path, any_dtype=True)


def test_an_approximation_is_computed_from_the_weights_in_use_unless_it_is_stored(tmp_path):
    model = perturb(loda.inject(tiny_gpt2(), CONFIGS["low_rank"]))
    loda.save_pretrained(model, tmp_path / "recipe")
    loda.save_pretrained(model, tmp_path / "stored", with_approximation=True)
    found = {
        folder: loda.from_pretrained(tiny_gpt2().bfloat16(), tmp_path / folder, any_dtype=True).transformer.h[0]
        for folder in ("recipe", "stored")
    }
    anew = loda.inject(tiny_gpt2().bfloat16(), CONFIGS["low_rank"]).transformer.h[0]
    assert torch.equal(found["recipe"].attn.c_attn.base.W_A, anew.attn.c_attn.base.W_A)
    assert torch.equal(found["stored"].attn.c_attn.base.W_A, model.transformer.h[0].attn.c_attn.base.W_A.bfloat16())


BITS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
}


SIZES = {"llama": {"hidden_size": 64, "intermediate_size": 64}, "gpt2": {"n_embd": 64}}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_an_adapter_moves_between_a_quantised_base_and_the_base(bits, kind, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    sizes = SIZES[kind]
    for seed in (0, 1):
        tiny(kind, seed=seed, **sizes).save_pretrained(tmp_path / str(seed))

    def quantised(seed: int = 0):
        settings = {"quantization_config": BITS[bits], "device_map": "cpu", "dtype": torch.float32}
        try:
            return AutoModelForCausalLM.from_pretrained(tmp_path / str(seed), **settings).eval()
        except (ImportError, RuntimeError, NotImplementedError) as error:
            pytest.skip(f"bitsandbytes does not run here: {error}")

    for name, make in (("quantised", quantised), ("base", lambda: tiny(kind, **sizes))):
        loda.save_pretrained(perturb(loda.inject(make(), loda.LodaConfig(LoDAPlus()))), tmp_path / name)
    for folder, make in (
        ("quantised", lambda: tiny(kind, **sizes)),
        ("quantised", lambda: tiny(kind, **sizes).bfloat16()),
        ("base", quantised),
    ):
        with pytest.raises(LodaError, match=r"quantised\).*any_dtype=True"):
            loda.from_pretrained(make(), tmp_path / folder)
        loaded = loda.from_pretrained(make(), tmp_path / folder, any_dtype=True)
        expected = perturb(loda.inject(make(), loda.LodaConfig(LoDAPlus())))
        torch.testing.assert_close(logits(loaded), logits(expected), rtol=0.05, atol=0.05)
    for folder, other in (("quantised", tiny(kind, seed=1, **sizes)), ("base", quantised(1))):
        with pytest.raises(LodaError, match="another base model"):
            loda.from_pretrained(other, tmp_path / folder, any_dtype=True)


# Stored approximations, and transformers' own saving


@pytest.mark.parametrize(("kind", "joint"), [("gpt2", False), ("llama", False), ("llama", True)])
@pytest.mark.parametrize("approx", [LowRank(rank=8), Sparse(keep=0.4)], ids=["low_rank", "sparse"])
def test_a_stored_approximation_of_another_base_is_refused(kind, joint, approx, tmp_path):
    config = loda.LodaConfig(LoDAPlus(), approx, joint=joint)
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        loda.save_pretrained(loda.inject(tiny(kind, seed=seed), config), folder, with_approximation=True)
        loda.from_pretrained(tiny(kind, seed=seed), folder)
    shutil.copy(tmp_path / "1" / APPROXIMATION_FILE, tmp_path / "0")
    content = read_manifest(tmp_path / "0" / CONFIG_FILE)
    content["files"][APPROXIMATION_FILE] = sha256(tmp_path / "0" / APPROXIMATION_FILE)
    write_manifest(tmp_path / "0" / CONFIG_FILE, content)
    model = tiny(kind)
    with untouched(model), pytest.raises(LodaError, match=f"{APPROXIMATION_FILE}.*(does not approximate|is not the)"):
        loda.from_pretrained(model, tmp_path / "0")


def test_transformers_own_saving_is_refused_until_the_adapter_is_gone(tmp_path):
    for config in CONFIGS.values():
        model = loda.inject(tiny_gpt2(), config)
        for refusing in (model, copy.deepcopy(model)):
            with pytest.raises(LodaError, match=r"loda\.save_pretrained\(model, folder\), or loda\.merge"):
                refusing.save_pretrained(tmp_path)
        assert not list(tmp_path.iterdir())
        loda.unload(model)
        assert "save_pretrained" not in vars(model)
    merged = loda.merge(perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA()))))
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval()), logits(merged))


@pytest.mark.parametrize("config", ["loda_plus", "low_rank", "finetune"])
def test_the_trainer_saves_and_resumes_a_model_with_adapters(config, tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in TOKENS.repeat(4, 1)]

    def trained(folder, resume=None):
        quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_steps": 2}
        arguments = TrainingArguments(str(folder), max_steps=4, learning_rate=0.01, **quiet)
        torch.manual_seed(0)
        model = loda.inject(tiny_gpt2(), CONFIGS[config])
        Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=resume)
        return logits(model.eval())

    whole = trained(tmp_path / "a")
    assert not torch.equal(whole, logits(tiny_gpt2()))
    assert torch.equal(trained(tmp_path / "b", str(tmp_path / "a" / "checkpoint-2")), whole)
