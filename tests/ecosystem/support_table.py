"""Write the table of what is supported into docs/ecosystem.md: python -m tests.ecosystem.support_table

Every cell is tried on a tiny random model of the architecture. "yes" means: the model starts as the base (a prefix and
an approximation change it), other values of the trained parameters change what it computes, beside projections only q
and v change, and after saving and loading over a fresh base the logits are the same, bit for bit.
`tests/ecosystem/test_support.py` tests each cell.
"""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

import loda
import loda.peft
from loda.adapters import FineTune, FineTuneTop2, FullRank, Houlsby, Lin, LoDA, LoDAPlus, LoRA, Prefix
from loda.approx import LowRank, Sparse
from loda.architectures import layout_of
from loda.atomic import write_text
from loda.attention import find_attention
from loda.errors import LodaError
from loda.interfaces import AdapterConfig, ApproxConfig
from tests.ecosystem.models import SETTINGS, changed_parts, tiny
from tests.library.models import give_values, logits, perturb

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ecosystem.md"
BEGIN, END = "<!-- support: begin -->\n", "<!-- support: end -->\n"
Probe = Callable[[str], bool]


def adapted(*configs: AdapterConfig, in_qv: bool = False, starts_as_base: bool = True) -> Probe:
    """Each of these adapters over the base as it is."""
    return lambda kind: all(_works(kind, loda.LodaConfig(config), in_qv, starts_as_base) for config in configs)


def approximated(*configs: ApproxConfig) -> Probe:
    """LoDA+ over each of these approximations, which change the model before anything trains."""
    return lambda kind: all(
        _works(kind, loda.LodaConfig(LoDAPlus(), config), in_qv=False, starts_as_base=False) for config in configs
    )


def in_bf16(kind: str) -> bool:
    """LoDA+ over a base in bfloat16."""
    return _works(kind, loda.LodaConfig(LoDAPlus()), in_qv=True, starts_as_base=True, dtype=torch.bfloat16)


def merged(kind: str) -> bool:
    """Whether merged weights compute what LoRA beside them computes."""
    model = perturb(loda.inject(tiny(kind), loda.LodaConfig(LoRA())))
    before = logits(model)
    return torch.allclose(logits(loda.merge(model)), before, rtol=1e-4, atol=1e-4)


def in_peft(kind: str) -> bool:
    """The adapter that PEFT adds by default."""
    model = get_peft_model(tiny(kind), loda.peft.LodaConfig(task_type="CAUSAL_LM"))
    start = logits(model)
    give_values(loda.trainable_parameters(model))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = logits(PeftModel.from_pretrained(tiny(kind), folder))
    in_place = _only_qv(changed_parts(tiny(kind), model.get_base_model()))
    return torch.equal(start, logits(tiny(kind))) and in_place and _same(start, logits(model), again)


COLUMNS: dict[str, Probe] = {
    "LoDA, LoDA+, LoRA, FT^{q,v}": adapted(LoDA(), LoDAPlus(), LoRA(), FullRank(), in_qv=True),
    "merge LoRA": merged,
    "R-, S-": approximated(LowRank(rank=8), Sparse()),
    "FT, FT^Top2, Adapter^L, Adapter^H": adapted(FineTune(), FineTuneTop2(), Lin(r=2), Houlsby(r=2)),
    "prefix": adapted(Prefix(length=2, hidden=4), starts_as_base=False),
    "bf16": in_bf16,
    "`loda.peft`": in_peft,
}


def cell(kind: str, column: str) -> str:
    """Whether a method works on an architecture."""
    try:
        return "yes" if COLUMNS[column](kind) else "-"
    except LodaError:
        return "-"


def form(kind: str) -> str:
    """How the architecture holds q, k and v."""
    model = tiny(kind)
    layout = layout_of(model, next(iter(find_attention(model))))
    if layout.is_fused:
        return "one, by head" if layout.by_head else "one module"
    return "three, q with a gate" if layout.gated else "three modules"


def table() -> str:
    """The table in Markdown."""
    rows = [["`model_type`", "q, k, v", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
    rows += [[f"`{kind}`", form(kind), *(cell(kind, column) for column in COLUMNS)] for kind in SETTINGS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _works(
    kind: str, config: loda.LodaConfig, in_qv: bool, starts_as_base: bool, dtype: torch.dtype = torch.float32
) -> bool:
    base = logits(tiny(kind, dtype=dtype))
    model = loda.inject(tiny(kind, dtype=dtype), config)
    start = logits(model)
    perturb(model)
    with TemporaryDirectory() as folder:
        loda.save_pretrained(model, folder)
        again = logits(loda.from_pretrained(tiny(kind, dtype=dtype), folder))
    in_place = not in_qv or _only_qv(changed_parts(tiny(kind, dtype=dtype), model))
    return torch.equal(start, base) is starts_as_base and in_place and _same(start, logits(model), again)


def _only_qv(changed: list[set[str]]) -> bool:
    """Whether q and v of every attention changed and nothing else."""
    return bool(changed) and all(parts == {"q", "v"} for parts in changed)


def _same(start: Tensor, changed: Tensor, again: Tensor) -> bool:
    """Whether training changed the outputs, which are finite, and loading restored the changed ones."""
    return not torch.equal(start, changed) and torch.equal(changed, again) and bool(changed.isfinite().all())


if __name__ == "__main__":
    torch.set_num_threads(1)  # the models are too small to share between cores
    text = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{table()}{END}", text, flags=re.DOTALL))
