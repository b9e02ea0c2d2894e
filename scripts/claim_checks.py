"""How the claims of the paper are checked: each function returns what it finds, as text.

`scripts/paper_claims.py` has the claims and what is expected. Costs are counted on GPT-2's shapes, without weights.
Algebra is tried on small whole numbers in float64, whose sums and products are exact. Published values are those of
`configs/table`.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev, stdev

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from eval.figures.energy import kept_energy
from eval.results import Record, collect
from eval.tables.bootstrap import with_intervals
from eval.tables.fill import fill
from eval.tables.layout import blocks
from eval.tables.runs import experiment_of, kept_epochs, row_runs
from eval.tables.spec import Column, Published, RowSpec, TableSpec, overrides, read
from loda.adapters import FullRank, LoDA, LoDAPlus, LoRA, NoAdapter
from loda.adapters.bottleneck import SliceAdapterConfig
from loda.adapters.nonlinear import StackConfig
from loda.approx import Dense, LowRank, Sparse
from loda.costs import Cost
from loda.errors import LodaError
from loda.interfaces import AdapterConfig, ApproxConfig
from loda.lab.base.files import FILES, locate
from loda.lab.base.model import load_base
from loda.lab.config import ModelConfig, compose
from loda.lab.data import dart, e2e, load_pairs
from loda.lab.data.source import SourceFile, cache_folder
from loda.lab.data.source import locate as locate_data
from loda.lab.run import Run
from scripts.figure2 import projections_of_blocks

PROFILE = "paper"
RESULTS = Path(__file__).resolve().parents[1] / "results"
WIDTH, ADAPTERS, LAYERS = 1024, 48, 24  # GPT2-medium; W_q and W_v of each layer
FOOTNOTE_4 = (
    "Generate a restaurant description from the table. Here is an example: name: The Eagle | Type: coffee shop | "
    "food: Japanese | price: less than £20 | customer rating: low | area: riverside | family friendly: yes | near: "
    "Burger King. The generated description is like: The Eagle is a low rated coffee shop near Burger King and the "
    "riverside that is family friendly and is less than £20 for Japanese food. Now generate description for this "
    "table: "
)


class NotAtHandError(LodaError):
    """What a check needs is not on this machine; the message says what."""


# Costs: parameters and multiply-accumulates.


@cache
def _medium() -> GPT2LMHeadModel:
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=16))


@cache
def _cost(method: loda.LodaConfig) -> Cost:
    """The cost of a method on GPT2-medium."""
    return loda.cost(loda.inject(copy.deepcopy(_medium()), method))


def _cost_of(adapter: AdapterConfig, approx: ApproxConfig | None = None) -> Cost:
    return _cost(loda.LodaConfig(adapter, approx or Dense()))


def _cost_of_row(spec: TableSpec, row: RowSpec) -> Cost:
    return _cost(experiment_of(overrides(row, spec.profile(PROFILE))).method)


def _millions(count: int, decimal: bool) -> str:
    return f"{count / (10**6 if decimal else 2**20):.2f}M"


def _name(row: RowSpec) -> str:
    """LoDA, S-LoDA Keep 60%, LoRA r=8."""
    return row.label + (f" {row.approx}" if row.approx != "No" else "") + (f" r={row.r}" if row.r else "")


def _agreement(cells: Iterable[tuple[str, str, str]]) -> str:
    """How many cells (name, ours, printed) are equal, and which are not."""
    given = list(cells)
    differing = [f"{name} {ours}, not {printed}" for name, ours, printed in given if ours != printed]
    return "; ".join([f"{len(given) - len(differing)} of {len(given)} equal", *differing])


def parameters(table: str, *labels: str) -> str:
    """The counts of the rows with these labels: the paper's own rows in 2^20, those quoted from others in 10^6."""
    spec = read(table)
    return _agreement(
        (_name(row), _millions(_cost_of_row(spec, row).trainable_parameters, row.quoted), row.parameters)
        for row in spec.rows
        if row.label in labels
    )


def counts(*adapters: AdapterConfig) -> str:
    return ", ".join(_millions(_cost_of(adapter).trainable_parameters, decimal=True) for adapter in adapters)


def parameter_formula() -> str:
    """2rdL for LoRA and 2(rd + r^2)L for LoDA and LoDA+, at every r of Table 3."""
    spec = read("table3")
    cells = []
    for row in spec.rows:
        assert row.r is not None
        formula = 2 * row.r * (WIDTH + (0 if row.label == "LoRA" else row.r)) * ADAPTERS
        cells.append((_name(row), f"{_cost_of_row(spec, row).trainable_parameters:,}", f"{formula:,}"))
    return _agreement(cells)


def nearly_as_many() -> str:
    lora, *ours = (_cost_of(adapter).trainable_parameters for adapter in (LoRA(), LoDA(), LoDAPlus()))
    return " and ".join(f"{count / lora:.3f}" for count in ours)


def share_of_full_rank() -> str:
    total = sum(parameter.numel() for parameter in _medium().parameters())
    return f"1/{total / _cost_of(FullRank()).trainable_parameters:.2f}"


def times_more() -> str:
    full = _cost_of(FullRank()).trainable_parameters
    return ", ".join(f"{full / _cost_of(adapter).trainable_parameters:.1f}" for adapter in (LoRA(), LoDA()))


def gpt3_storage() -> str:
    """Two bytes a parameter: GPT-3, one adapter, a model with a hundred adapters, a hundred models."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=12288, n_layer=96, n_head=96, n_positions=2048))
    whole = 2 * sum(parameter.numel() for parameter in model.parameters())
    adapter = 2 * loda.cost(loda.inject(model, loda.LodaConfig(LoRA()))).trainable_parameters
    hundred = (whole + 100 * adapter, 100 * whole)
    return f"{whole / 1e9:.0f} GB, {adapter / 1e6:.0f} MB, {hundred[0] / 1e9:.0f} GB, {hundred[1] / 1e12:.0f} TB"


def macs() -> str:
    """Table 2 prints LoRA merged and unmerged, FT^{Wq,Wv} merged, the others as they run."""
    spec, cells = read("table2"), []
    for row in spec.rows:
        cost = _cost_of_row(spec, row)
        merged = [] if cost.merged_macs_per_token is None else [cost.merged_macs_per_token]
        ours = [*merged, cost.macs_per_token][: 1 + row.macs.count("/")]
        cells.append((_name(row), "/".join(f"{count / 1e6:.1f}" for count in ours) + "M", row.macs))
    return _agreement(cells)


def break_even_rank() -> str:
    """The smallest rank that saves nothing."""
    dense = _cost_of(NoAdapter()).macs_per_token
    ranks = range(760, WIDTH)  # from 760 to save time; the cost rises with the rank
    return f"R < {next(rank for rank in ranks if _cost_of(NoAdapter(), LowRank(rank=rank)).macs_per_token >= dense)}"


def macs_at_rank_700() -> str:
    ours = [_cost_of(adapter, LowRank(rank=700)).macs_per_token for adapter in (LoDA(), LoDAPlus())]
    return ", ".join(f"{count / 1e6:.1f}M" for count in ours)


def sparse_savings() -> str:
    costs = [_cost_of(LoDAPlus(), Sparse(keep=keep)) for keep in (0.6, 0.5, 0.4)]
    return ", ".join(f"{1 - cost.macs_per_token / cost.base_macs_per_token:.1%}" for cost in costs)


def added_macs() -> str:
    """What the adapters of one layer add for each token."""
    cost = _cost_of(LoDAPlus())
    return f"{(cost.macs_per_token - cost.base_macs_per_token) // LAYERS:,}"


# The maps.


def _map(config: SliceAdapterConfig, width: int = 32) -> torch.nn.Module:
    """The map x -> Delta h with small whole numbers as parameters; A and B are the same in every map."""
    module, generator = config.build(width, width).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator))
    return module


def _inputs(n: int, width: int = 32) -> Tensor:
    return torch.randint(-3, 4, (n, width), generator=torch.Generator().manual_seed(1)).double()


def zero_f1() -> str:
    """LoDA and LoDA+ with either r x r matrix zero: outputs, and gradients of A and B, are LoRA's."""
    x = _inputs(64)

    def gradients(module: torch.nn.Module) -> tuple[Tensor, ...]:
        output = module(x)
        return (output, *torch.autograd.grad((output * x).sum(), [module.get_parameter(name) for name in "AB"]))

    lora, cases = gradients(_map(LoRA())), list(itertools.product((LoDA(), LoDAPlus()), (0, 1)))
    equal = 0
    for config, layer in cases:
        module = _map(config)
        torch.nn.init.zeros_(module.get_parameter(f"f1.linears.{layer}.weight"))
        equal += all(itertools.starmap(torch.equal, zip(gradients(module), lora, strict=True)))
    return f"equal in {equal} of {len(cases)} cases"


def linear_f1() -> str:
    """LoDA with f1(u) = u M_1 M_2 is LoRA with A (I + M_1 M_2) for A."""
    module, x = _map(LoDA(f1=StackConfig(order="linear"))), _inputs(64)
    first, second = (module.get_parameter(f"f1.linears.{layer}.weight").T for layer in (0, 1))
    lora = _map(LoRA())
    with torch.no_grad():
        lora.get_parameter("A").copy_(module.get_parameter("A") @ (torch.eye(len(first)) + first @ second))
        return f"largest difference {(module(x) - lora(x)).abs().max():g}"


@torch.no_grad()
def image() -> str:
    """The dimension that 256 updates span, alone and together with the rows of B."""
    found = []
    for name, config in (("LoDA", LoDA()), ("LoDA+", LoDAPlus())):
        module = _map(config)
        updates = module(_inputs(256))
        both = torch.cat([updates, module.get_parameter("B")])
        found.append(f"{name} {torch.linalg.matrix_rank(updates)} and {torch.linalg.matrix_rank(both)}")
    return ", ".join(found)


@torch.no_grad()
def linearity() -> str:
    """Which maps have f(x + y) = f(x) + f(y), and the rank of a linear one."""
    x, y, found = _inputs(128), _inputs(128).flip(0), []
    for name, config in {"FT": FullRank(), "LoRA": LoRA(), "LoDA": LoDA(), "LoDA+": LoDAPlus()}.items():
        f = _map(config)
        rank = int(torch.linalg.matrix_rank(f(torch.eye(32, dtype=torch.float64))))
        is_linear = torch.allclose(f(x + y), f(x) + f(y))
        found.append(f"{name} linear of rank {rank}" if is_linear else f"{name} non-linear")
    return ", ".join(found)


# The tables.


def _triples(
    value: Published, digits: int, deviation: Callable[[Iterable[float]], float]
) -> Iterator[tuple[float, ...]]:
    """Three values of two decimals whose mean and deviation print as published."""
    near = [round(round(value.mean, 2) + step / 100, 2) for step in range(-7, 8)]
    for three in itertools.combinations_with_replacement(near, 3):
        if (f"{fmean(three):.{digits}f}", f"{deviation(three):.{digits}f}") == (
            f"{value.mean:.{digits}f}",
            f"{value.deviation:.{digits}f}",
        ):
            yield three


def deviations() -> str:
    """Which of the published TER fit a deviation with n - 1, and with n."""
    spec = read("table2")
    column, published = spec.columns["TER"], [row.values[list(spec.columns).index("TER")] for row in spec.rows]
    fits = [
        sum(value is not None and any(_triples(value, column.digits, kind)) for value in published)
        for kind in (stdev, pstdev)
    ]
    return f"{fits[0]} of {len(published)} fit n - 1, {fits[1]} of {len(published)} fit n"


def round_trip(table: str) -> str:
    """Records of three seeds that have the published mean and deviation, printed as a table beside the published."""
    spec = read(table)
    lines = [line for block in blocks(fill(spec, PROFILE, _published_records(spec))) for line in block]
    ours = [line.entries for line in lines if line.kind == "ours" and line.row.spec.published]
    paper = [line.entries for line in lines if line.kind == "paper"]
    rows = [row for row in spec.rows if row.published]
    return _agreement(
        (f"{_name(row)} {metric}", one.text, other.text)
        for row, mine, printed in zip(rows, ours, paper, strict=True)
        for metric, one, other in zip(
            spec.columns, *(line[-len(spec.columns) :] for line in (mine, printed)), strict=True
        )
        if other.text != "-"
    )


def _published_records(spec: TableSpec) -> list[Record]:
    return [
        _record(run, epoch, _cost_of_row(spec, row), scores)
        for row in spec.rows
        if row.published
        for table_run, scores in zip(row_runs(spec, row, spec.profile(PROFILE)), _seed_scores(spec, row), strict=False)
        for run in table_run.runs
        for epoch in kept_epochs(row, run.experiment) or {0.0}
    ]


def _seed_scores(spec: TableSpec, row: RowSpec) -> list[dict[str, float]]:
    """Scores in the units of the scripts: of one seed where no deviation is published, else of three."""
    columns = zip(spec.columns.items(), row.values, strict=True)
    seeds = {name: _seed_values(value, column) for (name, column), value in columns if value is not None}
    return [dict(zip(seeds, scores, strict=True)) for scores in zip(*seeds.values(), strict=True)]


def _seed_values(value: Published, column: Column) -> list[float]:
    if value.deviation is None:
        values = [value.mean]
    elif column.round_each is None:
        values = [value.mean - value.deviation, value.mean, value.mean + value.deviation]
    else:
        values = list(next(_triples(value, column.digits, stdev)))
    return [each / column.scale for each in values]


def _record(run: Run, epoch: float, cost: Cost, scores: dict[str, float]) -> Record:
    experiment = run.experiment
    return Record(
        run=run.name,
        model=experiment.model.name,
        dataset=experiment.dataset.name,
        adapter=experiment.method.adapter.name,
        approx=experiment.method.approx.name,
        seed=experiment.seed,
        checkpoint=f"epoch-{epoch:g}",
        epoch=epoch,
        split=experiment.decode.split,
        scorer=experiment.dataset.scorer,
        contexts=1,
        scores=scores,
        cost=cost,
        settings={},
        training=None,
        hashes={"train": "", "decode": run.decode_key, "data": "", "metrics": ""},
        provenance={},
    )


def exceptions(table: str, better: Sequence[str], worse: Sequence[str], on_par: bool = False) -> str:
    """The published cells in which a row of `better` does not beat one of `worse`; none is "no exception".

    Rows that are `on_par` may be behind by the sum of both deviations.
    """
    spec, found = read(table), []
    rows = [(_name(row), row.values) for row in spec.rows]
    ours, others = ([each for each in rows if each[0] in names] for names in (better, worse))
    for (mine, values), (theirs, against) in itertools.product(ours, others):
        for (metric, column), one, other in zip(spec.columns.items(), values, against, strict=True):
            if one is None or other is None:
                continue
            gain = round(one.mean - other.mean, column.digits) * (1 if column.better == "higher" else -1)
            slack = (one.deviation or 0) + (other.deviation or 0)
            if gain < -slack if on_par else gain <= 0:
                a, b = (f"{value.mean:.{column.digits}f}" for value in (one, other))
                found.append(f"{metric} {mine} {a}, {theirs} {b}")
    return "; ".join(found) or "no exception"


def trade_off() -> str:
    """Published BLEU of each R- and S- method of Table 2, from the closest approximation to the roughest."""
    spec, families = read("table2"), dict[str, list[float]]()
    for row in spec.rows:
        if row.approx != "No" and (bleu := row.values[list(spec.columns).index("BLEU")]) is not None:
            families.setdefault(row.label, []).append(bleu.mean)
    rising = [label for label, values in families.items() if values != sorted(values, reverse=True)]
    return f"rises in {len(rising)} of {len(families)}"


def best_r() -> str:
    """The r with the best published BLEU of each method of Table 3."""
    spec, found = read("table3"), dict[str, dict[int, float]]()
    for row in spec.rows:
        if row.r is not None and (bleu := row.values[list(spec.columns).index("BLEU")]) is not None:
            found.setdefault(row.label, {})[row.r] = bleu.mean
    best = {
        label: [str(r) for r, value in bleu.items() if value == max(bleu.values())] for label, bleu in found.items()
    }
    return ", ".join(f"{label} {' and '.join(rs)}" for label, rs in best.items())


def one_shot() -> str:
    rendered = compose(["adapter=none", "decode=one_shot"]).decode.prompt.render("name : Blue Spice | food : Chinese")
    return "equal" if rendered == f"{FOOTNOTE_4}name: Blue Spice | food: Chinese" else f"not equal: {rendered}"


# What lies on some machines only.


def energy(settings: Sequence[str]) -> str:
    """Energy of W_proj in the first block of GPT2-medium; `settings` may be model.path=FOLDER."""
    config = compose(["model=gpt2_medium", *settings]).model
    kept = kept_energy(projections_of_blocks(load_base(config, _base_folder(config)))[0])
    return f"{kept['rank'][299]:.1%} (rank 300), {kept['percent'][39]:.1%} (40 %)"


def _base_folder(config: ModelConfig) -> Path:
    """The folder of a base that needs no download."""
    if config.path is not None:
        return locate(config)
    assert config.hub_id is not None
    found = [try_to_load_from_cache(config.hub_id, name, revision=config.revision) for name in FILES]
    if not all(isinstance(path, str) for path in found):
        raise NotAtHandError(f"{config.hub_id} is not in the Hugging Face cache; give model.path=FOLDER")
    return Path(str(found[0])).parent


def e2e_examples() -> str:
    return ", ".join(f"{count:,}" for count in _sizes("e2e", e2e.FILES))


def dart_examples() -> str:
    return f"{sum(_sizes('dart', dart.FILES)):,}"


def _sizes(name: str, files: dict[str, SourceFile]) -> list[int]:
    """Pairs of each split, counted in files that need no download."""
    folder = cache_folder(name)
    for file in files.values():
        try:
            locate_data(name, file, folder)
        except LodaError as error:
            raise NotAtHandError(f"{file.name} of {name} has not been downloaded (README: LODA_CACHE)") from error
    return [len(load_pairs(name, split, folder)) for split in files]


# What runs on a smaller model say.


def at_small_scale(table: str, baseline: str) -> str:
    """BLEU of LoDA and LoDA+ minus that of `baseline` in the committed runs of `table`; '' where they are missing."""
    filled = fill(read(table), "auto", collect(RESULTS))
    if not any(row.records for row in filled.rows if row.spec.label == baseline):
        return ""
    found = []
    for row in with_intervals(filled, RESULTS, baseline).rows:
        cell = row.cells["BLEU"]
        if row.spec.label in ("LoDA", "LoDA+") and cell.ours and cell.against:
            low, high = cell.against.low, cell.against.high
            found.append(f"{row.spec.label} {cell.against.value:+.1f} ({low:.1f}..{high:.1f}, n = {cell.ours.n})")
    return f"at small scale, BLEU minus that of {baseline}: {', '.join(found)}; docs/results.md" if found else ""
