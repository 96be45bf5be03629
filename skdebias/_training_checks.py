"""What a fit looks at before and after training, and warns of."""

import numpy as np

from skdebias._warnings import warn_caller

# Rows that are looked at, evenly spaced.
_ROWS = 10_000
# Standard deviations, or their ratio, beyond which half of the features are too far
# from the training rows to be prepared in the same way.
_SHIFT = 4.0


class CollapsedHeadWarning(UserWarning):
    """A fitted head is worth less than always answering the most frequent class.

    It predicts one class for all training rows; or its accuracy on them is below the
    share of the most frequent class, and its class-balanced accuracy nearer to that of
    guessing than to 1. Most often the embeddings are not standardised, or the learning
    rate or the number of epochs is too small for them. Turn it into an error with
    ``warnings.simplefilter("error", CollapsedHeadWarning)``.
    """


class ValidationShiftWarning(UserWarning):
    """The validation rows are on another scale than the training rows.

    The epoch is then chosen on rows that the head was not trained for. Most often they
    have not been through the steps that the training rows have been through.
    """


def warn_of_validation_shift(X, X_val):
    """Warn if validation rows cannot have been prepared as the training rows were.

    Parameters
    ----------
    X, X_val : ndarray or Tensor of shape (n_samples, n_features)
    """
    if len(X_val) < 2:
        return
    with np.errstate(all="ignore"):
        rows, others = _some(X), _some(X_val)
        spread, other_spread = rows.std(axis=0), others.std(axis=0)
        scale = np.maximum(np.maximum(spread, other_spread), np.finfo(np.float32).tiny)
        moved = np.median(np.abs(rows.mean(axis=0) - others.mean(axis=0)) / scale)
        varying = (spread > 0) & (other_spread > 0)
        ratios = np.log(other_spread[varying] / spread[varying])
        ratio = np.exp(np.median(ratios)) if len(ratios) else 1.0
    if moved < _SHIFT and 1 / _SHIFT < ratio < _SHIFT:
        return
    warn_caller(
        f"X_val does not look like X: half of its features are {moved:.2g} standard "
        f"deviations away or more, and spread {ratio:.2g} times as widely. Prepare it "
        "with the steps that X has been through, such as scaler.transform(X_val), or "
        "give a Pipeline transform_input=['X_val'].",
        ValidationShiftWarning,
    )


def warn_if_collapsed(estimator, X, y_codes, logits_of, sample_weight=None):
    """Warn if a fitted head is of no use on the rows it was trained on.

    Parameters
    ----------
    estimator : HeadClassifier
        Fitted.
    X : ndarray or Tensor of shape (n_samples, n_features)
    y_codes : ndarray of shape (n_samples,)
        Indices into `classes_`.
    logits_of : callable
        Returns the logits (n_rows, 1 or n_classes) of some rows.
    sample_weight : ndarray of shape (n_samples,), default=None
        Positive weights of the rows.
    """
    places = _places(len(X))
    y = y_codes[places]
    weights = np.ones(len(y)) if sample_weight is None else sample_weight[places]
    logits = logits_of(_some(X))
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    predictions = logits.argmax(axis=1)
    counts = np.bincount(y, weights, minlength=len(estimator.classes_))
    hits = predictions == y
    correct = np.bincount(y[hits], weights[hits], minlength=len(counts))
    present = counts > 0
    majority, accuracy = counts.max() / weights.sum(), correct.sum() / weights.sum()
    recall = (correct[present] / counts[present]).mean()
    useless = accuracy < majority and recall < (1 + 1 / present.sum()) / 2
    single = (predictions == predictions[0]).all() and present.sum() > 1
    if not single and not useless:
        return
    single_class = estimator.classes_[predictions[:1]].tolist()[0]
    what = (
        f"predicts class {single_class!r} for all training rows"
        if single
        else f"has a class-balanced accuracy of {recall:.2f} on its training rows"
    )
    warn_caller(
        f"{type(estimator).__name__} {what}: its accuracy on them is {accuracy:.2f}, "
        f"and that of always answering the most frequent class {majority:.2f}. "
        "Standardise X (sklearn.preprocessing.StandardScaler), or change "
        "learning_rate, weight_decay or max_iter, or the parameters of the method.",
        CollapsedHeadWarning,
    )


def _places(n_rows):
    """Return the places of the rows to look at."""
    return np.arange(0, n_rows, max(1, -(-n_rows // _ROWS)))


def _some(X):
    """Return some rows as a float array of numpy."""
    rows = X[_places(len(X))]
    if not isinstance(rows, np.ndarray):
        rows = rows.float().cpu().numpy()
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows
