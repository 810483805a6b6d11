"""How many floating-point operations a token takes."""

import logging
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode

_log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class TokenFlops:
    """
    Floating-point operations per token, padding excluded.

    The first output token comes from the prefill, so n output tokens take n - 1 decoding steps.

    Attributes:
        prefill: For each prompt token.
        decode: For each decoding step of one sequence, at the context of the counted prompt.
        method: flop_counter (counted by torch) or parameter_estimate (2 * N, with N parameters
            outside of embeddings: Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    """

    prefill: float
    decode: float
    method: str

    def of(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> float:
        """
        Operations of a batch with these tokens per request.

        >>> TokenFlops(prefill=2.0, decode=3.0, method="flop_counter").of([10, 20], [1, 5])
        72.0
        """
        steps = sum(max(tokens - 1, 0) for tokens in output_tokens)
        return self.prefill * sum(input_tokens) + self.decode * steps


def count_flops(model: Any, prompt: Sequence[int]) -> TokenFlops:
    """The operations per token of *model* around *prompt*, counted or else estimated."""
    try:
        first = _count(model, prompt, 1)
        second = _count(model, prompt, 2)
        if first > 0 and second > first:
            return TokenFlops(
                prefill=first / len(prompt), decode=float(second - first), method="flop_counter"
            )
    except Exception as fault:  # noqa: BLE001, the figure is reference metadata: estimate it
        _log.debug("torch cannot count the operations: %s", fault)
    per_token = 2.0 * model.num_parameters(exclude_embeddings=True)
    return TokenFlops(prefill=per_token, decode=per_token, method="parameter_estimate")


def _count(model: Any, prompt: Sequence[int], tokens: int) -> int:
    ids = torch.tensor([prompt], device=model.device)
    counter = FlopCounterMode(display=False)
    with counter:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )
    return int(counter.get_total_flops())
