"""How the times grow, as one figure each: training, decoding, adapter overhead.

python -m benchmarks.growth
python -m benchmarks.growth --device cuda --model gpt2_medium

growth_training    a training step against the length of the rows and against the batch; padded to 512 beside it
growth_decoding    decoding against the number of contexts and against the beams
growth_overhead    Q, K, V with an adapter over the same without, against r; as trained and optimised
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import nn
from transformers import PreTrainedModel

import loda
from benchmarks.decoding import search
from benchmarks.report import Row as Line
from benchmarks.report import begin, duration, finish, parser
from benchmarks.timing import Step, Timing, interleave
from benchmarks.train_step import SMOOTHING, pad_to_512, reference_loss
from benchmarks.workload import SHAPES, VOCABULARY, prompts, random_gpt2
from eval.figures.style import BLUE, ORANGE, VERMILLION, figure, save, styled
from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.approx.dense import Frozen
from loda.columns import Columns
from loda.inference import optimized
from loda.lab.training.examples import Batch, Row, collate
from loda.lab.training.loss import target_loss

LENGTHS, BATCHES = (32, 64, 128, 256, 512), (1, 2, 4, 8)
CONTEXTS, BEAMS = (1, 4, 16), (1, 4, 16)
RANKS = (2, 8, 32, 128, 512, 1024)
STEPS = 16
ADAPTERS = {"LoRA": LoRA, "LoDA": LoDA, "LoDA+": LoDAPlus}
END = 50256
Series = dict[str, dict[int, float]]
"""Seconds, or a ratio, by name of the line and place on the x axis."""


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    options = parser("growth", "How training, decoding and adapters grow: figures.")
    options.add_argument("--model", default="gpt2_mini", choices=SHAPES)
    options.add_argument("--width", type=int, default=1024, help="of the projections whose adapters are timed")
    arguments = options.parse_args(argv)
    started = begin(arguments)
    panels = {
        "growth_training": (training(arguments.model, arguments.device, arguments.repeats), "seconds per step"),
        "growth_decoding": (decoding(arguments.model, arguments.device, arguments.repeats), "seconds"),
        "growth_overhead": (overhead(arguments.width, arguments.device, arguments.repeats), "time over that without"),
    }
    lines = []
    for name, (series, label) in panels.items():
        save(draw(series, label), arguments.outputs, name)
        for axis, lines_of_axis in series.items():
            for line, points in lines_of_axis.items():
                first, last = min(points), max(points)
                growth = f"{points[last] / points[first]:.1f} times that at {first}"
                value = duration(points[last]) if label.startswith("seconds") else f"{points[last]:.2f}"
                lines.append(Line(f"{name}, {line}", None, note=f"{value} at {axis} {last}; {growth}"))
    finish("growth", arguments, started, lines, {name: series for name, (series, _) in panels.items()})


def training(shape: str, device: str, repeats: int) -> dict[str, Series]:
    """A step of LoDA+ against the length of 4 rows, and against the number of rows of 64 tokens."""
    model = loda.inject(random_gpt2(shape, device), loda.LodaConfig(LoDAPlus(dropout=0.1))).train()
    sizes = {"tokens of a row": [(4, n) for n in LENGTHS], "rows of a batch": [(n, 64) for n in BATCHES]}
    found: dict[str, Series] = {}
    for axis, batches in sizes.items():
        steps: dict[str, Step] = {}
        for place, (rows, length) in enumerate(batches):
            made = [Row(torch.randint(VOCABULARY, (length,)).tolist(), length // 2) for _ in range(rows)]
            where = torch.device(device)
            steps[f"this project|{place}"] = _backward(target_loss, model, collate(made).to(where))
            steps[f"padded to 512|{place}"] = _backward(reference_loss, model, pad_to_512(made).to(where))
        places = [length if axis == "tokens of a row" else rows for rows, length in batches]
        found[axis] = _series(interleave(steps, repeats), places)
    return found


def decoding(shape: str, device: str, repeats: int) -> dict[str, Series]:
    """LoDA+'s beam search of 16 steps against contexts (ten beams) and against beams (eight contexts)."""
    model = loda.inject(random_gpt2(shape, device), loda.LodaConfig(LoDAPlus())).eval()
    given, _ = prompts(max(CONTEXTS))
    steps: dict[str, dict[str, Step]] = {
        "contexts": {f"this project|{i}": _search(model, given[:n], 10) for i, n in enumerate(CONTEXTS)},
        "beams": {f"this project|{i}": _search(model, given[:8], n) for i, n in enumerate(BEAMS)},
    }
    return {
        axis: _series(interleave(of_axis, repeats), {"contexts": CONTEXTS, "beams": BEAMS}[axis])
        for axis, of_axis in steps.items()
    }


def overhead(width: int, device: str, repeats: int) -> dict[str, Series]:
    """The projection with adapters over the one without, for 256 tokens, against r."""
    torch.manual_seed(0)
    frozen = Frozen({"weight": torch.randn(width, 3 * width, device=device)}, torch.randn(3 * width, device=device))
    slices = {part: Columns(i * width, (i + 1) * width) for i, part in enumerate("qkv")}
    x = torch.randn(256, width, device=device)
    found: dict[str, Series] = {"r, as trained": {}, "r, optimised": {}}
    for place, r in enumerate(RANKS):
        modules: dict[str, nn.Module] = {"dense": frozen}
        for name, adapter in ADAPTERS.items():
            projection = loda.AdaptedProjection(frozen, slices, width)
            adapter(r=r).attach(nn.Module(), {"projection": projection}, ("q", "v"))
            fast = optimized(projection.eval())
            assert fast is not None
            modules |= {f"{name}|as trained": projection, f"{name}|optimised": fast.eval()}
        timings = interleave({name: _forward(module, x) for name, module in modules.items()}, max(3, repeats))
        for name, timing in timings.items():
            if name != "dense":
                line, state = name.split("|")
                found[f"r, {state}"].setdefault(line, {})[RANKS[place]] = timing.median / timings["dense"].median
    return found


def draw(panels: Mapping[str, Series], label: str) -> Figure:
    """Two panels over one axis, both logarithmic."""
    with styled():
        drawn = figure(height=1.9)
        for axes, (title, series) in zip(drawn.subplots(1, 2, sharey=True), panels.items(), strict=True):
            for colour, marker, (name, points) in zip((BLUE, ORANGE, VERMILLION), "osP", series.items(), strict=False):
                axes.plot(list(points), list(points.values()), color=colour, marker=marker, label=name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted({x for points in series.values() for x in points}))
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
            axes.set_xlabel(title)
            axes.grid()
        drawn.axes[0].set_ylabel(label)
        handles, names = drawn.axes[0].get_legend_handles_labels()
        if len(handles) > 1:
            drawn.legend(handles, names, loc="outside upper center", ncols=len(handles))
    return drawn


def _series(timings: Mapping[str, Timing], places: Sequence[int]) -> Series:
    found: Series = {}
    for key, timing in timings.items():
        name, place = key.split("|")
        found.setdefault(name, {})[places[int(place)]] = timing.median
    return found


def _backward(loss: Callable[..., Any], model: PreTrainedModel, batch: Batch) -> Step:
    def step() -> None:
        loss(model, batch, SMOOTHING).backward()
        model.zero_grad()

    return step


def _search(model: PreTrainedModel, given: Sequence[list[int]], beams: int) -> Step:
    def step() -> None:
        search(model, given, END, beams, batch=16, steps=STEPS)

    return step


def _forward(module: nn.Module, x: torch.Tensor) -> Step:
    @torch.inference_mode()
    def step() -> None:
        for _ in range(2):
            module(x)

    return step


if __name__ == "__main__":
    main()
