"""What a fit looks at before and after training, and warns of."""

import numpy as np

from skdebias._warnings import warn_caller

# Rows that are looked at, evenly spaced.
_ROWS = 10_000
# Standard deviations, or their ratio, beyond which half of the features are too far
# from the training rows to be prepared in the same way.
_SHIFT = 4.0
# Share of the rows that a first stage gets right, below which a head that came of it
# has lost the classes. Of the fits behind examples/reproduce/untouched_blind.py those
# that ended far below class-balanced training kept less, and those that gained more.
_KEPT = 0.72


class CollapsedHeadWarning(UserWarning):
    """A fitted head is of little worth on the rows it was trained on.

    It predicts one class for all training rows; or its accuracy on them is below the
    share of the most frequent class, and its class-balanced accuracy nearer to that of
    guessing than to 1. Most often the embeddings are not standardised, or the learning
    rate or the number of epochs is too small for them.

    Or it is far worse on them than the model that its method started from (the first
    model of JTT, AFR, UGC and of GERNE without attributes, the biased head of LfF, the
    student of ULE): it gets less than 72 % of the rows right that this one
    gets right, in the mean over the classes. Such a head was driven away from the
    classes and not only from a shortcut, and is most often worse than class-balanced
    training.

    Turn it into an error with ``warnings.simplefilter("error", CollapsedHeadWarning)``.
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


def warn_if_collapsed(estimator, prepared, logits_of):
    """Warn if a fitted head is of no use on the rows it was trained on.

    Parameters
    ----------
    estimator : HeadClassifier
        Fitted.
    prepared : Prepared
        Its fit.
    logits_of : callable
        Returns the logits (n_rows, 1 or n_classes) of some rows by the head whose
        fitted attributes have a prefix; the prefix is empty for the result.
    """
    data, name = prepared.data, type(estimator).__name__
    places = _places(len(data.X))
    y = prepared.y_codes[places]
    predictions = _predicted(logits_of(_some(data.X), ""))
    weights = np.ones(len(y))
    if data.sample_weight is not None:
        weights = data.sample_weight[places]
    hits = predictions == y
    counts = np.bincount(y, weights)
    majority, accuracy = counts.max() / weights.sum(), np.average(hits, weights=weights)
    recall, n_present = _recall(y, hits, weights), (counts > 0).sum()
    useless = accuracy < majority and recall < (1 + 1 / n_present) / 2
    single = (predictions == predictions[0]).all() and n_present > 1
    kept, easy = 1.0, _is_easy(prepared, places, logits_of)
    if easy is not None and easy.any():
        kept = _recall(y[easy], hits[easy], weights[easy])
    if single or (useless and kept >= _KEPT):
        single_class = estimator.classes_[predictions[:1]].tolist()[0]
        what = (
            f"predicts class {single_class!r} for all training rows"
            if single
            else f"has a class-balanced accuracy of {recall:.2f} on its training rows"
        )
        warn_caller(
            f"{name} {what}: its accuracy on them is {accuracy:.2f}, and that of "
            f"always answering the most frequent class {majority:.2f}. Standardise X "
            "(sklearn.preprocessing.StandardScaler), or change learning_rate, "
            "weight_decay or max_iter, or the parameters of the method.",
            CollapsedHeadWarning,
        )
    elif kept < _KEPT:
        warn_caller(
            f"{name} gets only {kept:.0%} of the training rows right that the model it "
            "started from gets right (mean over classes): it has lost the classes, and "
            "not only a shortcut. Compare it with ERMClassifier(balance='class') on "
            "validation rows, or choose gentler parameters of the method.",
            CollapsedHeadWarning,
        )


def _predicted(logits):
    """Return the class code of the largest logit of every row."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return logits.argmax(axis=1)


def _is_easy(prepared, places, logits_of):
    """Return whether the model that a method started from gets rows right, or None."""
    stage, data = prepared.stage, prepared.data
    easy = stage.is_easy
    if easy is None:
        easy = getattr(stage.inferrer, "_is_easy", None)
    if easy is not None:
        return easy[places]
    head = getattr(prepared.method, "reference_head", None)
    if head is None:
        return None
    rows = _some(data.X if data.X_student is None else data.X_student)
    predictions = _predicted(logits_of(rows, f"{head}_"))
    return predictions == prepared.y_codes[places]


def _recall(y, hits, weights):
    """Return the mean over the classes of the weighted share of rows that are hit."""
    counts = np.bincount(y, weights)
    correct = np.bincount(y[hits], weights[hits], minlength=len(counts))
    return (correct[counts > 0] / counts[counts > 0]).mean()


def _places(n_rows):
    """Return the places of the rows to look at."""
    return np.arange(0, n_rows, max(1, -(-n_rows // _ROWS)))


def _some(X):
    """Return some rows as a float array of numpy."""
    rows = X[_places(len(X))]
    if not isinstance(rows, np.ndarray):
        rows = rows.float().cpu().numpy()
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows
