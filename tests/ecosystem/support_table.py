"""Write the list of the tested architectures into docs/ecosystem.md: python -m tests.ecosystem.support_table"""

import re
from pathlib import Path
from textwrap import fill

from loda.architectures import layout_of
from loda.atomic import write_text
from loda.attention import find_attention
from tests.ecosystem.models import SETTINGS, tiny

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ecosystem.md"
BEGIN, END = "<!-- support: begin -->\n", "<!-- support: end -->\n"


def form(kind: str) -> str:
    """How the architecture holds q, k and v."""
    model = tiny(kind)
    layout = layout_of(model, next(iter(find_attention(model))))
    if layout.is_fused:
        return "one module, head by head" if layout.by_head else "one module"
    return "three modules, q with a gate" if layout.gated else "three modules"


def listing() -> str:
    """The architectures by the layout of their q, k and v, in Markdown."""
    kinds: dict[str, list[str]] = {}
    for kind in SETTINGS:
        kinds.setdefault(form(kind), []).append(f"`{kind}`")
    lines = (f"- {layout}: {', '.join(found)}" for layout, found in sorted(kinds.items()))
    return "".join(fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) + "\n" for line in lines)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{listing()}{END}", text, flags=re.DOTALL))
