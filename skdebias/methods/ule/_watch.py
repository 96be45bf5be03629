"""How students and teachers do in an epoch, and how they agree."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from skdebias.methods.ule._logits import centred_logits


class Watch:
    """Class-balanced accuracy of all heads, and how teachers agree with students.

    Parameters
    ----------
    n_classes : int
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes = n_classes
        self._sums: list[Tensor] = []

    def step(self, logits: Tensor, y: Tensor) -> None:
        """Count a step's hits and logit products."""
        single = logits.shape[-1] == 1
        predicted = (logits[..., 0] > 0).long() if single else logits.argmax(-1)
        classes = one_hot(y, self._n_classes).to(logits.dtype)
        hits = (predicted == y[..., None]).to(logits.dtype)
        centred = centred_logits(logits)
        centred = centred - centred.mean(1, keepdim=True)
        student, teacher = centred[:, :, ::2], centred[:, :, 1::2]
        sums = [
            torch.einsum("srk,srm->smk", classes, hits),
            classes.sum(1)[:, None],
            (student * teacher).sum((1, 3)),
            (student * student).sum((1, 3)),
            (teacher * teacher).sum((1, 3)),
        ]
        self._sums = [a + b for a, b in zip(self._sums, sums)] or sums

    def end_epoch(self) -> tuple[Tensor, Tensor]:
        """Return accuracies (S * M,) and logit correlations (S * M / 2,); restart."""
        hits, rows, st, ss, tt = self._sums
        self._sums = []
        seen = rows > 0
        recall = torch.where(seen, hits / rows.clamp_min(1.0), 0.0)
        accuracy = recall.sum(-1) / seen.sum(-1)
        cosine = st / (ss * tt).sqrt().clamp_min(torch.finfo(st.dtype).tiny)
        return accuracy.flatten(), cosine.flatten()


def weight_cosine(coef: Tensor) -> Tensor:
    """Return the cosines of the centred weights of students and teachers.

    Parameters
    ----------
    coef : Tensor of shape (S * M, n_logits, n_features)

    Returns
    -------
    Tensor of shape (S * M / 2,)
    """
    if coef.shape[1] > 1:
        coef = coef - coef.mean(1, keepdim=True)
    flat = coef.flatten(1)
    return cosine_similarity(flat[::2], flat[1::2], eps=1e-30)
