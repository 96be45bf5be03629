"""Plots of group accuracies."""

import numpy as np

from skdebias.metrics._group import MISSING_ATTRIBUTES
from skdebias.metrics._table import group_accuracy_table


class GroupAccuracyDisplay:
    """Bar chart of the accuracy of every (label, attribute) group.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. Needs
    matplotlib: ``pip install "skdebias[plot]"``.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by :func:`~skdebias.metrics.group_accuracy_table`.
    name : str, default=None
        Name of the classifier, used as the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes with the bars.
    figure_ : matplotlib.figure.Figure
        Figure that holds the axes.
    bars_ : matplotlib.container.BarContainer
        One bar per row of `table`, coloured by label.
    errorbars_ : matplotlib.container.ErrorbarContainer
        Confidence intervals.

    See Also
    --------
    group_accuracy_table : The numbers behind the plot.

    Examples
    --------
    >>> from skdebias.metrics import GroupAccuracyDisplay
    >>> display = GroupAccuracyDisplay.from_predictions(
    ...     [0, 0, 1, 1], [0, 0, 1, 0], attributes=["land", "water", "water", "land"]
    ... )
    >>> [float(bar.get_height()) for bar in display.bars_]
    [1.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, table, *, name=None):
        self.table = table
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        attributes=None,
        confidence_level=0.95,
        sample_weight=None,
        name=None,
        ax=None,
        **bar_kwargs,
    ):
        """Plot the group accuracies of a fitted classifier.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier.
        X : array-like of shape (n_samples, n_features)
            Input.
        y : array-like of shape (n_samples,)
            True labels.
        attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
            Spurious attributes. Required.
        confidence_level : float, default=0.95
            Coverage of the intervals.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of rows, see :func:`group_accuracy_table`.
        name : str, default=None
            Title; the name of the estimator's class if None.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on; a new figure if None.
        **bar_kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.bar`.

        Returns
        -------
        GroupAccuracyDisplay
            The drawn display.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        _check_attributes_given(attributes, f"{cls.__name__}.from_estimator")
        return cls.from_predictions(
            y,
            estimator.predict(X),
            attributes=attributes,
            confidence_level=confidence_level,
            sample_weight=sample_weight,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            **bar_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_pred,
        *,
        attributes=None,
        confidence_level=0.95,
        sample_weight=None,
        name=None,
        ax=None,
        **bar_kwargs,
    ):
        """Plot the group accuracies of predictions.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        y_pred : array-like of shape (n_samples,)
            Predicted labels.
        attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
            Spurious attributes. Required.
        confidence_level : float, default=0.95
            Coverage of the intervals.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of rows, see :func:`group_accuracy_table`.
        name : str, default=None
            Title; none if None.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on; a new figure if None.
        **bar_kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.bar`.

        Returns
        -------
        GroupAccuracyDisplay
            The drawn display.
        """
        check_matplotlib(f"{cls.__name__}.from_predictions")
        _check_attributes_given(attributes, f"{cls.__name__}.from_predictions")
        table = group_accuracy_table(
            y_true,
            y_pred,
            attributes=attributes,
            confidence_level=confidence_level,
            sample_weight=sample_weight,
        )
        return cls(table, name=name).plot(ax=ax, **bar_kwargs)

    def plot(self, ax=None, *, name=None, **bar_kwargs):
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on; a new figure if None.
        name : str, default=None
            Title; `self.name` if None.
        **bar_kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.bar`.

        Returns
        -------
        GroupAccuracyDisplay
            This object, with the drawn artists as attributes.
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        accuracy = self.table["accuracy"].to_numpy()
        positions = np.arange(len(accuracy))
        _, label_codes = np.unique(self.table["label"], return_inverse=True)
        style = {"color": [f"C{code % 10}" for code in label_codes]} | bar_kwargs
        self.bars_ = ax.bar(positions, accuracy, **style)
        ends = self.table[["low", "high"]].to_numpy().T
        self.errorbars_ = ax.errorbar(
            positions, accuracy, yerr=np.abs(ends - accuracy), fmt="none", ecolor="0.2"
        )
        ax.set_xticks(positions, self._group_names())
        ax.set(xlabel="group: label, attribute", ylabel="accuracy", ylim=(0, 1.02))
        name = self.name if name is None else name
        if name is not None:
            ax.set_title(name)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _group_names(self):
        """Return a tick label for every group: label, attribute values, samples."""
        keys = self.table.iloc[:, : self.table.columns.get_loc("n")]
        return [
            ", ".join(map(str, key)) + f"\nn={n}"
            for key, n in zip(
                keys.itertuples(index=False), self.table["n"], strict=True
            )
        ]


def _check_attributes_given(attributes, caller):
    if attributes is None:
        raise TypeError(MISSING_ATTRIBUTES.format(name=caller))


def check_matplotlib(caller):
    """Refuse to draw without matplotlib, by the name of what draws."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib, which is not installed. Run: "
            'pip install "skdebias[plot]"'
        ) from error
