"""TRL's trainers with a LoDA configuration as their `peft_config`."""

import pytest
import torch
import trl
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.ecosystem.models import LOWRANK, adapted, config, tiny
from tests.library.models import logits, state

QUIET = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "logging_steps": 1}
OVER = pytest.mark.parametrize("approx", [None, LOWRANK], ids=["dense", "low_rank"])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """The words "0" to "63"; 0 ends a text."""
    words = Tokenizer(WordLevel({str(n): n for n in range(64)}, unk_token="0"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0", pad_token="0", unk_token="0")


@OVER
def test_sft_trains_the_adapter_alone_and_its_checkpoint_loads(approx, tokenizer, tmp_path):
    rows = Dataset.from_list([{"prompt": "5 6 7", "completion": " 8 9 10"}, {"prompt": "1 2", "completion": " 3 4"}])
    arguments = trl.SFTConfig(str(tmp_path), max_steps=6, learning_rate=0.05, save_steps=6, **QUIET)
    trainer = trl.SFTTrainer(
        tiny("llama"), arguments, train_dataset=rows, processing_class=tokenizer, peft_config=config(approx=approx)
    )
    before = state(trainer.model)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.1
    changed = {name for name, (value, _) in state(trainer.model).items() if not torch.equal(value, before[name][0])}
    assert changed
    assert all(".loda_adapters." in name for name in changed)
    loaded = PeftModel.from_pretrained(tiny("llama"), tmp_path / "checkpoint-6").eval()
    assert torch.equal(logits(loaded), logits(trainer.model.eval()))


@OVER
@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
def test_the_reference_of_dpo_is_what_the_adapter_starts_from(approx, trained, tokenizer, tmp_path):
    # Before the first step the policy equals its reference, and then the loss is -log sigmoid(0) = log 2.
    model = adapted("llama", approx=approx) if trained else tiny("llama")
    rows = Dataset.from_list([{"prompt": "5 6", "chosen": " 7 8", "rejected": " 9 10"}] * 2)
    arguments = trl.DPOConfig(str(tmp_path), max_steps=1, learning_rate=0.0, save_strategy="no", **QUIET)
    settings = {} if trained else {"peft_config": config(approx=approx)}
    trainer = trl.DPOTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer, **settings)
    trainer.train()
    found = trainer.state.log_history[0]
    assert found["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert found["rewards/chosen"] == found["rewards/rejected"] == 0
