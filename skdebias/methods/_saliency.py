"""Input saliencies of stacked heads in factored form, and how far two of them oppose.

The gradient of a head's output in its input row is `g = a @ W` for a linear head with
weights `W` (n_out, D), and `a` says which output is differentiated. Behind ReLU layers
it is `((a @ W_L) * [h > 0]) @ ... @ W_1`. Either way a batch of saliencies is
`left @ right` with `left` (R, H) and `right` (H, D). Norms and inner products follow
from `H x H` matrices, so that the `R x D` saliencies are formed only for what needs
single coordinates: the largest of them, or absolute differences.

The ReLU masks are locally constant, so the chain rule over the factors is the double
backward pass, written out: no graph is recorded.

All tensors have the heads of a stack as their first axis, `B` of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

# Added to squared norms. Under the root: the norm of a zero saliency has no derivative.
EPSILON = 1e-12

Saliency = Literal["loss", "logit", "log_probability"]
Normalize = Literal["l2", "max"]


@dataclass(frozen=True)
class Coefficients:
    """Which output is differentiated: `values = sign * (slope - onehot)`.

    The coefficients of a row sum to zero, which makes the saliency the one of centred
    weight rows: adding a vector to all rows changes neither the classifier nor it.

    Parameters
    ----------
    values : Tensor of shape (B, R, n_logits)
    derivative : Tensor of shape (B, R, n_logits) or None
        Softmax whose Jacobian leads from `values` to the logits, or the derivative
        itself if there is one logit. None where values depend on the logits through
        the predicted class only.
    sign : float
    discrete : tuple of Tensor or None
        With `derivative=None`, the class of every row, (B, R), and the values of each
        class, (n_classes, n_logits).
    """

    values: Tensor
    derivative: Tensor | None = None
    sign: float = 1.0
    discrete: tuple[Tensor, Tensor] | None = None

    def backward(self, grad: Tensor) -> Tensor:
        """Carry a derivative in the coefficients on to the logits.

        Parameters
        ----------
        grad : Tensor of shape (B, R, n_logits)

        Returns
        -------
        Tensor of shape (B, R, n_logits)
        """
        if self.derivative is None:
            return torch.zeros_like(grad)
        if grad.shape[-1] == 1:
            return self.sign * self.derivative * grad
        mean = (self.derivative * grad).sum(-1, keepdim=True)
        return self.sign * self.derivative * (grad - mean)


def coefficients(
    kind: Saliency, logits: Tensor, y: Tensor, *, per_row: bool
) -> Coefficients:
    """Return the coefficients of a saliency.

    Parameters
    ----------
    kind : {"loss", "logit", "log_probability"}
        Differentiate the cross-entropy, the largest logit, or its log-probability.
    logits : Tensor of shape (B, R, n_logits)
        A single logit `z` stands for the two centred ones `-z/2, z/2`.
    y : Tensor of shape (B, R)
        Class codes.
    per_row : bool
        The saliency of every row will be normalised, so its length is free. It is then
        chosen such that a saturated softmax does not underflow to 0 / 0.

    Returns
    -------
    Coefficients
    """
    n_logits = logits.shape[-1]
    if n_logits == 1:
        return _single(kind, logits, y, per_row)
    predicted = logits.argmax(-1)
    target = y if kind == "loss" else predicted
    hot = one_hot(target, n_logits).to(logits.dtype)
    if kind == "logit":
        table = (
            torch.eye(n_logits, dtype=logits.dtype, device=logits.device)
            - 1.0 / n_logits
        )
        return Coefficients(hot - 1.0 / n_logits, discrete=(predicted, table))
    if per_row:
        # softmax - onehot = (1 - p) * (softmax over the other classes - onehot).
        logits = logits.masked_fill(hot.bool(), -torch.inf)
    p = logits.softmax(-1)
    sign = 1.0 if kind == "loss" else -1.0
    return Coefficients(sign * (p - hot), p, sign)


def _single(kind: Saliency, z: Tensor, y: Tensor, per_row: bool) -> Coefficients:
    """Coefficients for heads with one logit; the saliency is a multiple of `w`."""
    predicted = (z[..., 0] > 0).long()
    target = y if kind == "loss" else predicted
    sign = 1.0 if kind == "loss" else -1.0
    if kind == "logit" or per_row:
        table = torch.arange(2, dtype=z.dtype, device=z.device)[:, None] - 0.5
        table *= -sign
        return Coefficients(table[target], discrete=(target, table))
    p = torch.sigmoid(z)
    values = sign * (p - target[..., None].to(p.dtype))
    return Coefficients(values, p * (1.0 - p), sign)


class Saliencies(Protocol):
    """Gradients of outputs in the inputs, in whatever form a model has them."""

    def oppose(
        self, student: Self, measure: "Opposition", weights: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Measure how far these saliencies, a teacher's, are from opposing others.

        Parameters
        ----------
        student : Saliencies
            Of the same form; constants.
        measure : Opposition
        weights : Tensor of shape (B, R)
            Shares of the rows, summing to one.

        Returns
        -------
        values : Tensor of shape (B,)
        coefficients : Tensor of shape (B, R, n_logits) or None
            Derivative in what was differentiated. None if `values` are recorded.
        coefs : list of Tensor
            Derivatives in the weights at fixed coefficients; empty likewise.
        """
        ...


@dataclass(frozen=True)
class Factors:
    """Saliencies of heads, `left @ right`.

    Parameters
    ----------
    left : Tensor of shape (B, R, H)
    right : Tensor of shape (B, H, n_features)
    chain : list of Tensor
        Derivatives in the outputs of layers 1, 2, ..., for :meth:`backward`.
    masks : sequence of Tensor of shape (B, R, width)
        Which units of each hidden layer are active.
    coefs : sequence of Tensor of shape (B, n_out, n_in)
        Weights of the layers, the last one centred over its rows.
    """

    left: Tensor
    right: Tensor
    chain: list[Tensor]
    masks: Sequence[Tensor]
    coefs: Sequence[Tensor]

    def oppose(
        self, student: Self, measure: "Opposition", weights: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return the measure and its derivatives, as :class:`Saliencies` says."""
        values, left, right = measure(student, self, weights)
        return values, *self.backward(left, right)

    def backward(self, left: Tensor, right: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Carry derivatives in the factors on to coefficients and weights.

        Parameters
        ----------
        left, right : Tensor
            Derivatives in the two factors.

        Returns
        -------
        coefficients : Tensor of shape (B, R, n_logits)
        coefs : list of Tensor
            In the shapes of the weights.
        """
        grads = [right]
        for coef, mask, above in zip(self.coefs[1:], self.masks, self.chain):
            left = left * mask
            grads.append(above.transpose(1, 2) @ left)
            left = left @ coef.transpose(1, 2)
        return left, grads


def factors(
    values: Tensor, coefs: Sequence[Tensor], masks: Sequence[Tensor]
) -> Factors:
    """Return the saliencies of heads in factored form.

    Parameters
    ----------
    values : Tensor of shape (B, R, n_logits)
        Coefficients; they sum to zero over several logits.
    coefs : sequence of Tensor of shape (B, n_out, n_in)
        Weights of the layers, input to output.
    masks : sequence of Tensor of shape (B, R, width)
        Which units of each hidden layer are active.

    Returns
    -------
    Factors
    """
    coefs = list(coefs)
    if coefs[-1].shape[1] > 1:
        coefs[-1] = coefs[-1] - coefs[-1].mean(1, keepdim=True)
    chain: list[Tensor] = []
    left = values
    for coef, mask in zip(coefs[:0:-1], masks[::-1]):
        chain.insert(0, left)
        left = (left @ coef) * mask
    return Factors(left, coefs[0], chain, masks, coefs)


@dataclass(frozen=True)
class Opposition:
    """How far the saliencies of a teacher are from opposing those of a student.

    With `N` the normalisation, `opposite` is the distance of `N(g_t)` from `-N(g_s)`
    and `orthogonal` the size of their inner product, squared (`mse`) or absolute
    (`l1`). Under L2 normalisation a saliency has length one and its squares are summed;
    under max normalisation its coordinates reach one and are averaged. Either way the
    value is of order one whatever the number of features.

    Parameters
    ----------
    normalize : {"l2", "max"}
    normalize_over : {"batch", "sample"}
        One norm for the saliencies of a batch, or one for each of them.
    target : {"opposite", "orthogonal"}
    divergence : {"mse", "l1"}
    """

    normalize: Normalize = "l2"
    normalize_over: Literal["batch", "sample"] = "batch"
    target: Literal["opposite", "orthogonal"] = "opposite"
    divergence: Literal["mse", "l1"] = "mse"

    @property
    def needs_coordinates(self) -> bool:
        """Whether inner products alone do not say it."""
        absolute = self.target == "opposite" and self.divergence == "l1"
        return absolute or self.normalize == "max"

    def __call__(
        self, student: Factors, teacher: Factors, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the penalty and its derivatives in the teacher's factors.

        Parameters
        ----------
        student, teacher : Factors
        weights : Tensor of shape (B, R)
            Shares of the rows, summing to one.

        Returns
        -------
        values : Tensor of shape (B,)
        left, right : Tensor
            Derivatives, of the shapes of the teacher's factors.
        """
        if self.needs_coordinates:
            g_s = student.left @ student.right
            g_t = teacher.left @ teacher.right
            values, grad = self.of_coordinates(g_s, g_t, weights)
            left = grad @ teacher.right.transpose(1, 2)
            return values, left, teacher.left.transpose(1, 2) @ grad
        return self._from_products(student, teacher, weights)

    def _from_products(
        self, student: Factors, teacher: Factors, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        right_t = teacher.right.transpose(1, 2)
        cross = student.left @ (student.right @ right_t)  # of left factors: (B, R, H)
        own = teacher.left @ (teacher.right @ right_t)
        within = student.left @ (student.right @ student.right.transpose(1, 2))
        st = (cross * teacher.left).sum(-1)
        tt = (own * teacher.left).sum(-1)
        ss = (within * student.left).sum(-1)
        if self.normalize_over == "batch":
            ss, st, tt = ((v * weights).sum(1, keepdim=True) for v in (ss, st, tt))
        values, d_st, d_tt = self._of_products(ss, st, tt)
        d_st, d_tt = (weights * d_st)[..., None], 2.0 * (weights * d_tt)[..., None]
        if self.normalize_over == "sample":
            values = values * weights
        by_st, by_tt = teacher.left * d_st, teacher.left * d_tt
        right = (by_st.transpose(1, 2) @ student.left) @ student.right
        right = right + (by_tt.transpose(1, 2) @ teacher.left) @ teacher.right
        return values.sum(1), d_st * cross + d_tt * own, right

    def _of_products(
        self, ss: Tensor, st: Tensor, tt: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Penalty of units with these inner products; derivatives in `st` and `tt`."""
        by_s, by_t = (ss + EPSILON).rsqrt(), (tt + EPSILON).rsqrt()
        cosine = st * by_s * by_t
        if self.target == "opposite":
            values = ss * by_s**2 + tt * by_t**2 + 2.0 * cosine
            outer, d_tt = torch.full_like(cosine, 2.0), EPSILON * by_t**4
        else:
            values, outer = _size(cosine, self.divergence)
            d_tt = torch.zeros_like(tt)
        return values, outer * by_s * by_t, d_tt - 0.5 * outer * cosine * by_t**2

    def of_coordinates(
        self, g_s: Tensor, g_t: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the penalty of saliencies that are formed.

        Parameters
        ----------
        g_s, g_t : Tensor of shape (B, R, D)
            Saliencies of the student and of the teacher.
        weights : Tensor of shape (B, R)
            Shares of the rows, summing to one.

        Returns
        -------
        values : Tensor of shape (B,)
            Differentiable in `g_t` too, should it be recorded.
        grad : Tensor of shape (B, R, D)
            Derivative in the teacher's saliencies.
        """
        shares = weights[..., None]
        n_s, _, _ = self._normalised(g_s, shares)
        n_t, by_t, d_square = self._normalised(g_t, shares)
        unit = self._unit(g_t.shape[-1])
        if self.target == "opposite":
            each, slope = _size(n_s + n_t, self.divergence)
            values, grad = (unit * shares * each).sum((1, 2)), unit * shares * slope
        else:
            inner = unit * (n_s * n_t).sum(-1, keepdim=True)
            if self.normalize_over == "batch":
                inner = (shares * inner).sum(1, keepdim=True)
            each, slope = _size(inner, self.divergence)
            if self.normalize_over == "sample":
                each = each * shares
            values, grad = each.sum((1, 2)), unit * shares * slope * n_s
        axes = (1, 2) if self.normalize_over == "batch" else (2,)
        along = (grad * g_t).sum(axes, keepdim=True)
        return values, grad * by_t - 0.5 * by_t**3 * along * d_square

    def _unit(self, n_features: int) -> float:
        """Factor that makes a sum over coordinates of order one."""
        if self.normalize == "max":
            return 1.0 / n_features
        absolute = self.target == "opposite" and self.divergence == "l1"
        return n_features**-0.5 if absolute else 1.0

    def _normalised(self, g: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `N(g)`, one over the norm, and the derivative of its square."""
        batch = self.normalize_over == "batch"
        if self.normalize == "l2":
            counted = shares if batch else torch.ones_like(shares)
            axes = (1, 2) if batch else (2,)
            square = (counted * g * g).sum(axes, keepdim=True)
            slope = 2.0 * counted * g
        else:
            # A row of share zero stands for a pair of classes that did not occur.
            size = torch.where(shares > 0, g.abs(), 0.0) if batch else g.abs()
            flat = size.flatten(1) if batch else size
            top, where = flat.max(-1, keepdim=True)
            slope = torch.zeros_like(flat).scatter_(-1, where, 2.0)
            slope = slope.view_as(g) * g
            square = (top[..., None] if batch else top) ** 2
        by = (square + EPSILON).rsqrt()
        return g * by, by, slope


def _size(x: Tensor, divergence: str) -> tuple[Tensor, Tensor]:
    """Square or absolute value, and its derivative."""
    if divergence == "mse":
        return x * x, 2.0 * x
    return x.abs(), x.sign()


def gram_opposition(
    student: Tensor, teacher: Tensor, normalize: Normalize, target: str
) -> tuple[Tensor, Tensor]:
    """Opposition of the Gram matrices of two batches of activations.

    With `E = A @ A.T`, `<E_s, E_t> = ||A_s.T @ A_t||^2` and the largest entry of `E`
    is the largest squared length of a row of `A`, so that no `R x R` matrix is formed.

    Parameters
    ----------
    student, teacher : Tensor of shape (B, R, n_student), (B, R, n_teacher)
        Activations of the same rows.
    normalize : {"l2", "max"}
        Divide `E` by its Frobenius norm, or by its largest entry.
    target : {"opposite", "orthogonal"}
        `||N(E_s) + N(E_t)||^2`, or the squared inner product; summed under "l2",
        averaged over entries under "max".

    Returns
    -------
    values : Tensor of shape (B,)
    grad : Tensor of shape (B, R, n_teacher)
        Derivative in the teacher's activations.
    """
    mixed = student.transpose(1, 2) @ teacher
    own = teacher.transpose(1, 2) @ teacher
    st = mixed.square().sum((1, 2))
    tt = own.square().sum((1, 2))
    ss = (student.transpose(1, 2) @ student).square().sum((1, 2))
    d_st = 2.0 * student @ mixed
    d_tt = 4.0 * teacher @ own
    if normalize == "l2":
        square, d_square, square_s, unit = tt, d_tt, ss, 1.0
    else:
        square, d_square = _largest_entry(teacher)
        square_s, unit = _largest_entry(student)[0], 1.0 / student.shape[1] ** 2
    by_s, by_t = (square_s + EPSILON).rsqrt(), (square + EPSILON).rsqrt()
    cosine = unit * st * by_s * by_t
    if target == "opposite":
        outer = torch.full_like(cosine, 2.0)
        values = unit * (ss * by_s**2 + tt * by_t**2) + 2.0 * cosine
        by_own, by_square = unit * by_t**2, -unit * tt * by_t**4
    else:
        values, outer = cosine**2, 2.0 * cosine
        by_own, by_square = torch.zeros_like(st), torch.zeros_like(st)
    by_square = by_square - 0.5 * outer * cosine * by_t**2
    parts = ((outer * unit * by_s * by_t, d_st), (by_own, d_tt), (by_square, d_square))
    return values, torch.stack([f[:, None, None] * part for f, part in parts]).sum(0)


def _largest_entry(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Square of the largest entry of the Gram matrix, and its derivative."""
    lengths = activations.square().sum(-1)
    top, where = lengths.max(1)
    grad = torch.zeros_like(activations)
    rows = torch.arange(len(where), device=where.device)
    grad[rows, where] = 4.0 * top[:, None] * activations[rows, where]
    return top**2, grad
