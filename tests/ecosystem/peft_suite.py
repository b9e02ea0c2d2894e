"""Run PEFT's own generic tests with `loda.peft` as the method, and count what passes, is refused and fails.

    python -m tests.ecosystem.peft_suite [-k EXPRESSION]

The tests come with PEFT's source distribution, which is downloaded from the package index in the version that is
installed. Each test takes its methods from a list, and here the list holds LoDA's three variants. The tests treat them
as LoRA. The models of the tests, which lie on the Hub, are made anew here: tiny, random, under the same names.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers
from transformers import AutoConfig

from loda.errors import LodaError
from loda.peft import LodaConfig
from tests.ecosystem.models import D, tiny

PACKAGE = "peft_own_tests"  # PEFT calls it `tests`, as we do
VARIANTS = ("lora", "loda", "loda_plus")
FILES = (
    *("test_custom_models", "test_decoder_models", "test_encoder_decoder_models", "test_feature_extraction_models"),
    *("test_seq_classifier", "test_token_classification_qa"),
)
TASKS = {
    "test_encoder_decoder_models": "SEQ_2_SEQ_LM",
    "test_feature_extraction_models": "FEATURE_EXTRACTION",
    "test_seq_classifier": "SEQ_CLS",
}
WEIGHTED = "weighted_combination"
"""PEFT's LoRA adds the weights of several adapters to those of a new one; a non-linear adapter has no such sum."""

_WIDE = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_LLAMA = {**_WIDE, "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0}
_T5 = {"d_model": D, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_BART = {"d_model": D, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "decoder_start_token_id": 0}
_HALVES = {
    f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4))
}
_DISENTANGLED = {**_WIDE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
DECODERS = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": "opt",
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": "gpt2",
    "hf-internal-testing/tiny-random-gpt2": "gpt2",
    "peft-internal-testing/tiny-random-GPTJForCausalLM": "gptj",
    "trl-internal-testing/tiny-random-LlamaForCausalLM": "llama",
    "peft-internal-testing/tiny-dummy-qwen2": "qwen2",
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": "gemma3_text",
    "hf-internal-testing/tiny-random-MistralForCausalLM": "mistral",
}
OTHERS = {
    "peft-internal-testing/tiny-random-BertForSequenceClassification": ("bert", _WIDE),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": ("roberta", _WIDE),
    "peft-internal-testing/tiny-random-BertModel": ("bert", _WIDE),
    "peft-internal-testing/tiny-random-RobertaModel": ("roberta", _WIDE),
    "peft-internal-testing/tiny-random-DebertaModel": ("deberta", _DISENTANGLED),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("deberta-v2", _DISENTANGLED),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": ("llama", _LLAMA),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": ("t5", _T5),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": ("bart", _BART | _HALVES),
}


def fetch(folder: Path) -> None:
    """Put the tests of the installed PEFT into `folder`, as a package."""
    source = f"peft=={version('peft')}"
    options = ("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--quiet", "--dest", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "download", *options, source], check=True)
    (folder / PACKAGE).mkdir()
    (folder / PACKAGE / "__init__.py").touch()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive:
            if re.fullmatch(r"[^/]+/tests/[^/]+\.py", member.name):
                member.name = Path(member.name).name
                archive.extract(member, folder / PACKAGE, filter="data")


def make_models() -> None:
    """Save the models below the current folder, where transformers looks before it asks the Hub."""
    for name, kind in DECODERS.items():
        tiny(kind).save_pretrained(name)
    for name, (kind, settings) in OTHERS.items():
        config = AutoConfig.for_model(kind, **settings)
        architecture = re.search(r"For\w+ion|Model$", name)
        assert architecture, name
        model = {"ForConditionalGeneration": "AutoModelForSeq2SeqLM", "Model": "AutoModel"}.get(
            architecture[0], "AutoModelForSequenceClassification"
        )
        getattr(transformers, model).from_config(config).save_pretrained(name)


def methods(task: str, **settings: Any) -> list[tuple[type, dict[str, Any]]]:
    """The rows of a test of a task."""
    return [(LodaConfig, {"task_type": task, "variant": variant, **settings}) for variant in VARIANTS]


# An unknown architecture has no q, k and v to choose from.
WHOLE = {"slices": ("all", "q", "v")}
NAMES = ("q", "v", "query", "value", "q_proj", "v_proj", "in_proj", "query_proj", "value_proj")


def rows(module: str) -> dict[str, list[Any]]:
    """The lists of methods in a file of tests, as they are to be."""
    if module == "test_decoder_models":
        return {"ALL_CONFIGS": methods("CAUSAL_LM")}
    if module == "test_token_classification_qa":
        lists = {"TOKEN_CLS_CONFIGS": "TOKEN_CLS", "QA_CONFIGS": "QUESTION_ANS"}
        return {name: methods(task, target_modules=list(NAMES), **WHOLE) for name, task in lists.items()}
    if module in TASKS:
        return {"ALL_CONFIGS": methods(TASKS[module], target_modules=list(NAMES), **WHOLE)}
    custom: list[Any] = []
    several: list[Any] = []
    mixed: list[Any] = []
    for variant in VARIANTS:
        common = {"variant": variant, "slices": ("all",), "r": 4, "alpha": 4.0}
        lin0, lin1 = ({"target_modules": [name], "init_weights": False, **common} for name in ("lin0", "lin1"))
        for model, settings in (
            ("MLP", {"target_modules": "lin0"}),
            ("MLP", {"target_modules": ["lin1"]}),
            ("MLP", {"target_modules": ["lin0", "lin1"]}),
            ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
            ("MLP", {"target_modules": ["lin0"], "dropout": 0.1}),
            (
                "MLP",
                {"target_modules": ["lin0", "lin1"], "rank_pattern": {"lin1": 3}, "use_rslora": True, "alpha": 2.0},
            ),
            ("EmbConv1D", {"target_modules": ["conv1d"]}),
        ):
            custom.append((f"{variant} {len(custom)}", model, LodaConfig, {**common, **settings}))
        several += [(f"{variant} {n}", "loda", LodaConfig, lin0, other) for n, other in enumerate((lin0, lin1))]
        mixed.append((variant, LodaConfig(**lin0), LodaConfig(**{**lin0, "r": 8})))
    return {
        "TEST_CASES": custom,
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": several,
        "MIXED_ADAPTER_TEST_CASES": mixed,
    }


class Method:
    """A plugin of pytest that puts LoDA in the place of PEFT's methods, and counts."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("passed", "not applicable", "refused", "failed")
        }

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Replace the lists in place, before pytest reads them."""
        for name, methods in rows(metafunc.module.__name__.rpartition(".")[2]).items():
            getattr(metafunc.module, name)[:] = methods

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the tests of other methods."""
        for name in ("testing_common", *FILES):  # what the tests skip for all but LoRA
            vars(import_module(f"{PACKAGE}.{name}"))["LoraConfig"] = LodaConfig
        import_module(f"{PACKAGE}.testing_utils")._HUB_MODEL_ACCESSES.update(dict.fromkeys([*DECODERS, *OTHERS], 0))
        items[:] = [item for item in items if WEIGHTED not in item.name and self._is_ours(item)]

    @staticmethod
    def _is_ours(item: Any) -> bool:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        return any(value is LodaConfig or isinstance(value, LodaConfig) for value in values)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: pytest.CallInfo[None]) -> Any:
        """Count the outcome of a test and its reason."""
        report = (yield).get_result()
        reason = "" if call.excinfo is None else str(call.excinfo.value).partition("\n")[0]
        if report.skipped:
            self.counts["not applicable"][reason] += 1
        elif isinstance(getattr(call.excinfo, "value", None), LodaError):
            self.counts["refused"][re.sub(r"^adapter \S+ \((\w+)\)", r"\1", reason)] += 1
            report.outcome, report.wasxfail = "skipped", reason  # so that pytest does not count it as a failure
        elif report.failed:
            self.counts["failed"][f"{item.name.partition('[')[0]}: {reason}"] += 1
        elif report.when == "call":
            self.counts["passed"][item.module.__name__.rpartition(".")[2]] += 1


def main() -> int:
    """Run the tests and print the counts; the exit code is pytest's, 0 if none failed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("-k", default="", help="run only the tests that match, as in pytest")
    chosen = arguments.parse_args().k
    method = Method()
    with tempfile.TemporaryDirectory() as scratch:
        fetch(Path(scratch))
        os.chdir(scratch)
        sys.path.insert(0, scratch)
        make_models()
        # The tests import it, to tell image models from others.
        sys.modules["diffusers"] = ModuleType("diffusers")
        sys.modules["diffusers"].StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
        (Path(scratch) / "pytest.ini").touch()  # PEFT's own asks for plugins
        files = [f"{PACKAGE}/{name}.py" for name in FILES]
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "ignore", "-c", "pytest.ini", "-k", chosen]
        exit_code = pytest.main([*options, *files], [method])
        os.chdir("/")
    for outcome, reasons in method.counts.items():
        print(f"\n{outcome}: {reasons.total()}")
        for reason, count in reasons.most_common():
            print(f"  {count:5} {reason}")
    return int(exit_code)


if __name__ == "__main__":
    sys.exit(main())
