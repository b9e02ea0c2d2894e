"""The reference's training loss, computed only where it counts.

    loss = sum over masked positions of [ (1 - e) (-log p_target) + e mean_v(-log p_v) ] / (number of them + 0.0001)

with e the label smoothing and the mean over the whole vocabulary, the target included (LoRA's GPT2LMModel). The sum
runs over the whole batch, so every token weighs the same, also when several processes share a batch: each divides its
own sum by the number of tokens of all. The vocabulary head is applied to masked positions alone: about half of E2E's
positions are context, whose logits nobody reads.
"""

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from loda.lab.training.examples import Batch

NORMALISER = 1e-4
"""Added to the token count by the reference."""


def target_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float, num_targets: int | None = None) -> Tensor:
    """The loss of a batch, a scalar.

    Args:
        model: a causal language model.
        batch: the examples.
        label_smoothing: e above.
        num_targets: positions to divide by, if `batch` is a share of a larger one; None counts its own.
    """
    hidden = model.base_model(input_ids=batch.inputs, use_cache=False, **batch.layout).last_hidden_state
    logits = model.get_output_embeddings()(hidden[batch.mask]).float()
    # Parts of a head that are no modules: Cohere's scale, Granite's, and the cap of Gemma 2.
    scale = getattr(model, "logit_scale", 1.0) / getattr(model.config, "logits_scaling", 1.0)
    if scale != 1:
        logits = logits * scale
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * (logits / cap).tanh()
    targets = batch.targets[batch.mask]
    total = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    return total / ((len(targets) if num_targets is None else num_targets) + NORMALISER)
