"""Write the table of what is supported where into the README: python -m scripts.support_table

Every cell is tried on a tiny random model of the architecture from `tests/ecosystem`, whose tests hold in detail what
the cell says; `tests/ecosystem/test_support.py` refuses a README that is not current.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from peft import get_peft_model
from torch import nn

import loda
import loda.peft
from loda.adapters import AdapterH, AdapterL, FineTuning, FineTuningTop2, FullRank, LoDA, LoDAPlus, LoRA, Prefix
from loda.approx import LowRank, Sparse
from loda.errors import LodaError
from loda.lab.files import write_text
from loda.protocols import AdapterConfig
from loda.targets import ARCHITECTURES
from tests.ecosystem.models import TOKENS, tiny

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- support: begin -->\n", "<!-- support: end -->\n"


Probe = Callable[[str], bool]


def injected(*configs: loda.LodaConfig, dtype: torch.dtype = torch.float32) -> Probe:
    """Whether an architecture takes all of these, each on a model of its own, and computes numbers."""
    return lambda kind: all(_runs(loda.inject(tiny(kind, dtype=dtype), config)) for config in configs)


def adapted(*adapters: AdapterConfig) -> Probe:
    """The same for adapters over the base as it is."""
    return injected(*(loda.LodaConfig(adapter) for adapter in adapters))


def merged(kind: str) -> bool:
    """Whether LoRA merges."""
    return _runs(loda.merge(loda.inject(tiny(kind), loda.LodaConfig(LoRA()))))


def in_peft(kind: str) -> bool:
    """Whether PEFT adapts it by default."""
    return _runs(get_peft_model(tiny(kind), loda.peft.LodaConfig(task_type="CAUSAL_LM")))


COLUMNS: dict[str, Probe] = {
    "LoDA, LoDA+, LoRA, FT^{q,v}": adapted(LoDA(), LoDAPlus(), LoRA(), FullRank()),
    "merge LoRA": merged,
    "R-, S-": injected(loda.LodaConfig(LoDAPlus(), LowRank(rank=8)), loda.LodaConfig(LoDAPlus(), Sparse())),
    "FT, FT^Top2, Adapter^L, Adapter^H": adapted(FineTuning(), FineTuningTop2(), AdapterL(r=2), AdapterH(r=2)),
    "prefix": adapted(Prefix(length=2, hidden=4)),
    "bf16": injected(loda.LodaConfig(LoDAPlus()), dtype=torch.bfloat16),
    "`loda.peft`": in_peft,
}


def table() -> str:
    """The table in Markdown."""
    rows = [["`model_type`", "q, k, v", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
    for kind, layout in ARCHITECTURES.items():
        form = "three modules" if len(layout.projections) > 1 else "one, by head" if layout.by_head else "one module"
        rows.append([f"`{kind}`", form, *("yes" if _holds(probe, kind) else "-" for probe in COLUMNS.values())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def updated(readme: str) -> str:
    """The README with the table of today."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{table()}{END}", readme, flags=re.DOTALL)


def _holds(probe: Probe, kind: str) -> bool:
    try:
        return probe(kind)
    except LodaError:
        return False


def _runs(model: nn.Module) -> bool:
    with torch.no_grad():
        return bool(model(TOKENS).logits.isfinite().all())


if __name__ == "__main__":
    write_text(README, updated(README.read_text(encoding="utf-8")))
