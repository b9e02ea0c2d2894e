"""Adapt a causal language model with LoDA+, in plain PyTorch: python examples/adapt_any_model.py [FOLDER or hub id]

Without an argument it takes the toy base of this repository, a GPT-2; any in the list of docs/ecosystem.md will do.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import loda
from loda.adapters import LoDAPlus

name = sys.argv[1] if len(sys.argv) > 1 else Path(loda.__file__).parent / "lab" / "toy" / "base"
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
model = AutoModelForCausalLM.from_pretrained(name, dtype="float32", trust_remote_code=False)
loda.inject(model, loda.LodaConfig(LoDAPlus(r=4)))
print(loda.cost(model))

batch = tokenizer("name : Blue Spice | food : French", return_tensors="pt")
optimizer = torch.optim.AdamW(loda.trainable_parameters(model).values(), lr=0.01)
for step in range(20):
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step + 1}: loss {loss.item():.3f}")

folder = tempfile.mkdtemp()
loda.save_pretrained(model, folder)
base = AutoModelForCausalLM.from_pretrained(name, dtype="float32", trust_remote_code=False)
again = loda.from_pretrained(base, folder)
print("same logits:", torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits))
