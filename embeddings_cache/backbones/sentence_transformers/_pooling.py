"""From the tokens of a transformer to one vector for each text."""

import torch
from torch import nn

from embeddings_cache.backbones._base import BackboneSpec


def pooled_tokens(
    spec: BackboneSpec,
    transformer: nn.Module,
    tokens: dict[str, torch.Tensor],
    pooled: torch.Tensor,
) -> torch.Tensor:
    """Return CLS, or the mean, over the pooled tokens of a transformer's output."""
    output = transformer(**tokens, output_hidden_states=spec.layer is not None)
    hidden = output.last_hidden_state
    if spec.layer is not None:
        states = output.hidden_states
        # hidden_states[0] are the embeddings before the first block.
        number = int(spec.layer) + (len(states) if int(spec.layer) < 0 else 0)
        if not 1 <= number < len(states):
            raise ValueError(
                f"layer={spec.layer!r} must be a block of {spec.label}: 1 to "
                f"{len(states) - 1}, or -{len(states) - 1} to -1"
            )
        hidden = states[number]
    if spec.pooling == "cls":
        # Padding may be on the left.
        rows = torch.arange(len(hidden), device=hidden.device)
        first: torch.Tensor = hidden[rows, pooled.to(torch.int32).argmax(dim=1)]
        return first
    mask = pooled.unsqueeze(-1).to(torch.float32)
    mean: torch.Tensor = (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return mean
