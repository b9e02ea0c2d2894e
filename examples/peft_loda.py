"""LoDA+ as a PEFT method, trained by transformers' Trainer: python examples/peft_loda.py [FOLDER or hub id]"""

import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import loda.peft

name = sys.argv[1] if len(sys.argv) > 1 else Path(loda.__file__).parent / "lab" / "toy" / "base"
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
model = AutoModelForCausalLM.from_pretrained(name, dtype="float32", trust_remote_code=False)
model = get_peft_model(model, loda.peft.LodaConfig(task_type="CAUSAL_LM", variant="loda_plus", r=4, slices=("q", "v")))
model.print_trainable_parameters()

ids = tokenizer("name : Blue Spice | food : French")["input_ids"]
folder = tempfile.mkdtemp()
arguments = TrainingArguments(folder, max_steps=20, learning_rate=0.01, logging_steps=5, report_to=[], save_steps=20)
Trainer(model, arguments, train_dataset=[{"input_ids": ids, "labels": ids}] * 8).train()

base = AutoModelForCausalLM.from_pretrained(name, dtype="float32", trust_remote_code=False).to(model.device)
again = PeftModel.from_pretrained(base, f"{folder}/checkpoint-20")
batch = torch.tensor([ids], device=model.device)
print("same logits:", torch.equal(again.eval()(batch).logits, model.eval()(batch).logits))
