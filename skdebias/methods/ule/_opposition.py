"""How far the saliencies, or Gram matrices, of a teacher oppose a student's."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from skdebias.methods._saliency import Factors

# Added to squared norms. Under the root: the norm of a zero saliency has no derivative.
EPSILON = 1e-12

Normalize = Literal["l2", "max"]


@dataclass(frozen=True)
class Opposition:
    """Measure of how far a teacher's saliencies are from opposing a student's.

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
        within_t = teacher.left @ (teacher.right @ right_t)
        within_s = student.left @ (student.right @ student.right.transpose(1, 2))
        st = (cross * teacher.left).sum(-1)
        tt = (within_t * teacher.left).sum(-1)
        ss = (within_s * student.left).sum(-1)
        if self.normalize_over == "batch":
            ss, st, tt = ((v * weights).sum(1, keepdim=True) for v in (ss, st, tt))
        values, d_st, d_tt = self._of_products(ss, st, tt)
        d_st, d_tt = (weights * d_st)[..., None], 2.0 * (weights * d_tt)[..., None]
        if self.normalize_over == "sample":
            values = values * weights
        by_st, by_tt = teacher.left * d_st, teacher.left * d_tt
        right = (by_st.transpose(1, 2) @ student.left) @ student.right
        right = right + (by_tt.transpose(1, 2) @ teacher.left) @ teacher.right
        return values.sum(1), d_st * cross + d_tt * within_t, right

    def _of_products(
        self, ss: Tensor, st: Tensor, tt: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the penalty of inner products, and derivatives in `st` and `tt`."""
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
        """Return the factor that makes a sum over coordinates of order one."""
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
    """Return the square or absolute value, and its derivative."""
    if divergence == "mse":
        return x * x, 2.0 * x
    return x.abs(), x.sign()


def gram_opposition(
    student: Tensor, teacher: Tensor, normalize: Normalize, target: str
) -> tuple[Tensor, Tensor]:
    """Measure the opposition of the Gram matrices of two batches of activations.

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
    scatter = teacher.transpose(1, 2) @ teacher
    st = mixed.square().sum((1, 2))
    tt = scatter.square().sum((1, 2))
    ss = (student.transpose(1, 2) @ student).square().sum((1, 2))
    d_st = 2.0 * student @ mixed
    d_tt = 4.0 * teacher @ scatter
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
        by_tt, by_square = unit * by_t**2, -unit * tt * by_t**4
    else:
        values, outer = cosine**2, 2.0 * cosine
        by_tt, by_square = torch.zeros_like(st), torch.zeros_like(st)
    by_square = by_square - 0.5 * outer * cosine * by_t**2
    terms = ((outer * unit * by_s * by_t, d_st), (by_tt, d_tt), (by_square, d_square))
    return values, torch.stack([f[:, None, None] * term for f, term in terms]).sum(0)


def _largest_entry(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square of the Gram matrix's largest entry, and its derivative."""
    lengths = activations.square().sum(-1)
    top, where = lengths.max(1)
    grad = torch.zeros_like(activations)
    rows = torch.arange(len(where), device=where.device)
    grad[rows, where] = 4.0 * top[:, None] * activations[rows, where]
    return top**2, grad
