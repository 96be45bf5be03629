"""Rows of numbers as users pass them, and which of them heads can be trained on."""

import numpy as np
from sklearn.utils import assert_all_finite

# float32 first: integers and other types become float32, these three stay as they are.
PRECISIONS = [np.float32, np.float64, np.float16]
_BLOCK_VALUES = 1 << 22


def is_device_tensor(X):
    """Return whether X is a torch tensor that stays on its device."""
    return type(X).__module__.partition(".")[0] == "torch"


def as_array(X):
    """View a CPU tensor as an array; check a tensor on another device in place.

    Parameters
    ----------
    X : object
        Anything a user may pass as X.

    Returns
    -------
    object
        An ndarray for CPU tensors, the tensor itself on other devices, X otherwise.

    Raises
    ------
    ValueError
        For a tensor on another device that is not 2-D or holds NaN or infinity, for
        one that holds no real numbers, and for masked entries.
    """
    if not is_device_tensor(X):
        refuse_masked(X, "X")
        return X
    X = X.detach()
    if str(X.layout) != "torch.strided" or X.is_complex() or X.is_meta:
        raise ValueError(
            f"X is a tensor of {X.dtype} with layout {X.layout} on device {X.device}: "
            "pass a dense one of real numbers that holds data, such as X.to_dense()."
        )
    if X.device.type == "cpu":
        has_dtype = str(X.dtype) in ("torch.float16", "torch.float32", "torch.float64")
        return (X if has_dtype else X.float()).numpy()
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got a tensor of shape {tuple(X.shape)}.")
    if not bool(X.isfinite().all()):
        raise ValueError("Input X contains NaN or infinity: drop or impute these rows.")
    return X


def refuse_masked(values, name):
    """Refuse a masked array, whose masked entries would be read as if they were none.

    Parameters
    ----------
    values : object
    name : str

    Raises
    ------
    ValueError
        If an entry is masked.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise ValueError(
            f"{name} is a masked array with {np.ma.count_masked(values)} masked "
            f"entries: drop or impute these rows, or pass {name}.data."
        )


def refuse_beyond_float32(X, name="X"):
    """Refuse float64 numbers that are infinite as float32, in which heads are trained.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_samples, n_features)
        Finite.
    name : str, default="X"

    Raises
    ------
    ValueError
    """
    if "float64" not in str(X.dtype):
        return
    largest = max(float(X.max()), -float(X.min()))
    if largest > np.finfo(np.float32).max:
        raise ValueError(
            f"{name} has values of up to {largest:.2g}, which float32, in which heads "
            "are trained, does not hold: standardise it, for example with "
            "sklearn.preprocessing.StandardScaler."
        )


# Of the bits of a float16: all but the sign, and those of infinity.
_SIGNLESS, _FIRST_NOT_FINITE = np.uint16(0x7FFF), 0x7C00


def check_large_array(X, estimator):
    """Refuse NaN and infinity in a float16 array, block by block.

    scikit-learn's own test makes a boolean array of the size of X when the sum of X
    overflows, which that of float16 embeddings behind a ReLU does.

    Parameters
    ----------
    X : object
        Anything a user may pass as X.
    estimator : estimator
        Named in the message.

    Returns
    -------
    bool
        Whether X was tested; everything but 2-D float16 arrays is left alone.

    Raises
    ------
    ValueError
        If X holds NaN or infinity; with scikit-learn's message.
    """
    if not (isinstance(X, np.ndarray) and X.dtype == np.float16 and X.ndim == 2):
        return False
    rows = max(1, _BLOCK_VALUES // max(X.shape[1], 1))
    for start in range(0, len(X), rows):
        block = X[start : start + rows]
        # Bits are compared because float16 arithmetic takes ten times as long: NaN
        # and infinity have all bits of the exponent set.
        if (block.view(np.uint16) & _SIGNLESS).max(initial=0) >= _FIRST_NOT_FINITE:
            assert_all_finite(
                block, estimator_name=type(estimator).__name__, input_name="X"
            )
    return True
