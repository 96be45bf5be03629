"""Pictures of where classifiers look."""

from collections.abc import Mapping

import numpy as np

from skdebias.metrics._plot import check_matplotlib

#: How maps are drawn: signed ones on their own, others over the image.
_STYLES = {
    "input": {"cmap": "bwr", "interpolation": "nearest"},
    "grad_cam": {"cmap": "inferno", "alpha": 0.6},
}


class SaliencyDisplay:
    """Images, and beneath them where one or several classifiers look.

    Create it with :meth:`from_estimator`. Needs matplotlib:
    ``pip install "skdebias[plot]"``.

    Parameters
    ----------
    images : ndarray of shape (n_items, height, width) or (n_items, height, width, 3)
        Values in [0, 1].
    maps : dict of str to ndarray of shape (n_items, height, width)
        Saliencies by name of the classifier.
    predicted : dict of str to array-like of shape (n_items,), default=None
        What the classifiers say, shown above the maps.
    kind : {"input", "grad_cam"}, default="input"
        Signed maps are drawn on their own, red where they are positive and blue where
        they are negative; those of Grad-CAM lie over the image.

    Attributes
    ----------
    axes_ : ndarray of shape (1 + n_classifiers, n_items) of matplotlib.axes.Axes
        One row for the images, and one for every classifier.
    figure_ : matplotlib.figure.Figure
        Figure that holds the axes.

    See Also
    --------
    skdebias.metrics.GroupAccuracyDisplay : How right they are, group by group.

    Notes
    -----
    A map says where a small change would change the score of a class (``"input"``), or
    which places of a layer speak for it (``"grad_cam"``). Neither says that the place
    is decisive: hold a picture against the accuracy of the groups, or against images
    without the cue.

    References
    ----------
    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", ICLR 2014
    workshop. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", ICCV 2017, equations 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.inspection import SaliencyDisplay
    >>> image = np.linspace(0, 1, 64).reshape(1, 8, 8)
    >>> display = SaliencyDisplay(image, {"ERM": image - 0.5}).plot()
    >>> display.axes_.shape
    (2, 1)
    """

    def __init__(self, images, maps, *, predicted=None, kind="input"):
        self.images = images
        self.maps = maps
        self.predicted = predicted
        self.kind = kind

    @classmethod
    def from_estimator(
        cls,
        estimator,
        items,
        *,
        extractor=None,
        kind="input",
        layer=None,
        target=None,
        titles=None,
        ax=None,
        **imshow_kwargs,
    ):
        """Draw where fitted classifiers look.

        Parameters
        ----------
        estimator : classifier, or dict of str to classifier
            A fitted :class:`~skdebias.finetune.FineTuneClassifier`, one of its
            networks, such as `student_network_`, or a fitted head with `extractor`;
            also as the last step of a pipeline of scalers. Several of them are given by
            name, and see the items alike.
        items : array-like
            A few images, as the networks or the extractor take them.
        extractor : embeddings_cache.EmbeddingExtractor, default=None
            What heads were given the embeddings of. It is read again here, and nothing
            is cached.
        kind : {"input", "grad_cam"} or callable, default="input"
            "input" is the gradient of a class's score in the pixels, summed over
            colours. "grad_cam" weighs the maps of a layer by their mean gradients, and
            shows what speaks for the class. A callable ``kind(module, batch, codes)``
            returns maps (n_items[, channels], height, width), so that the methods of
            libraries such as captum can be shown. `module` takes the batch to
            scores (n_items, n_classes).
        layer : str, default=None
            Where Grad-CAM looks: name of a module of the backbone, of convolutional
            maps or of tokens. None is the last convolutional one.
        target : label or array-like of shape (n_items,), default=None
            The class to look at, of all items or of each. None is the one that each
            classifier predicts. With two classes a score is the logit of one against
            the other; else it is the class's logit.
        titles : sequence of str, default=None
            One per item, above the images.
        ax : matplotlib.axes.Axes or ndarray of them, default=None
            As for :meth:`plot`.
        **imshow_kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.imshow` for the maps.

        Returns
        -------
        SaliencyDisplay
            The drawn display.

        Raises
        ------
        ValueError
            For a head without `extractor`, for items that are no images, for a class
            that was not seen in `fit`, and for a layer without maps.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skdebias import ERMClassifier
        >>> from skdebias.finetune import FineTuneClassifier
        >>> from skdebias.inspection import SaliencyDisplay
        >>> rng = np.random.default_rng(0)
        >>> images = rng.random((40, 1, 8, 8), dtype=np.float32)
        >>> y = np.arange(40) % 2
        >>> images[y == 1, :, :2, :2] += 1  # in a corner
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()
        ... )
        >>> clf = FineTuneClassifier(
        ...     ERMClassifier(), network, modality="tensor", max_iter=5, random_state=0
        ... ).fit(images, y)
        >>> display = SaliencyDisplay.from_estimator(clf, images[:3], kind="grad_cam")
        >>> display.maps["FineTuneClassifier"].shape
        (3, 8, 8)
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib(caller)
        from skdebias.inspection._maps import network_of, saliency_maps

        if not callable(kind) and kind not in _STYLES:
            raise ValueError(
                f"kind={kind!r} must be 'input', 'grad_cam' or a function of module, "
                "batch and codes of classes."
            )
        if layer is not None and kind != "grad_cam":
            raise ValueError(f"layer={layer!r} has an effect on kind='grad_cam' alone.")
        if not isinstance(estimator, Mapping):
            estimator = {type(estimator).__name__: estimator}
        labels = _classes(estimator)
        codes = None if target is None else _codes(target, labels)
        maps, predicted = {}, {}
        for name, each in estimator.items():
            images, maps[name], said = saliency_maps(
                network_of(each, extractor), items, kind, layer=layer, target=codes
            )
            predicted[name] = said if labels is None else labels[said]
        drawn = cls(
            images,
            maps,
            predicted=predicted,
            kind="grad_cam" if kind == "grad_cam" else "input",
        )
        return drawn.plot(ax=ax, titles=titles, **imshow_kwargs)

    def plot(self, ax=None, *, titles=None, **imshow_kwargs):
        """Draw images and maps.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or ndarray of them, default=None
            Axes whose place the grid takes, or one for every picture, as `axes_`. A
            new figure if None.
        titles : sequence of str, default=None
            One per item, above the images.
        **imshow_kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.imshow` for the maps. Full colour is
            the largest size of a map, but for one pixel in 200; `vmin` and `vmax` set
            it for all maps.

        Returns
        -------
        SaliencyDisplay
            This object, with the drawn axes as attributes.
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        shape = 1 + len(self.maps), len(self.images)
        self.axes_ = axes = _grid(ax, shape)
        self.figure_ = axes.flat[0].figure
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for number, (axis, image) in enumerate(zip(axes[0], self.images)):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            if titles is not None:
                axis.set_title(titles[number], fontsize="small")
        for row, (name, maps) in zip(axes[1:], self.maps.items()):
            row[0].set_ylabel(name)
            for number, (axis, map_) in enumerate(zip(row, maps)):
                self._draw(axis, self.images[number], map_, imshow_kwargs)
                if self.predicted is not None:
                    said = self.predicted[name][number]
                    axis.set_title(f"→ {said}", fontsize="small", pad=2)
        return self

    def _draw(self, axis, image, map_, imshow_kwargs):
        limit = float(np.quantile(np.abs(map_), 0.995)) or float(np.abs(map_).max())
        style = _STYLES[self.kind] | {"vmin": -limit or -1.0, "vmax": limit or 1.0}
        if self.kind == "grad_cam":
            style["vmin"] = 0.0
            grey = image if image.ndim == 2 else image.mean(-1)
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
        axis.imshow(map_, **style | imshow_kwargs)


def _grid(ax, shape):
    """Return the axes of a grid: those given, in the place of one, or new ones."""
    import matplotlib.pyplot as plt

    if isinstance(ax, np.ndarray | list):
        axes = np.asarray(ax, dtype=object)
        if axes.shape != shape:
            raise ValueError(
                f"ax has the shape {axes.shape}, and should have {shape}: a row for "
                "the images and one for every classifier, a column for every item."
            )
        return axes
    if ax is None:
        size = 1.1 * shape[1] + 0.4, 1.3 * shape[0]
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.set_axis_off()
    spec = ax.get_subplotspec()
    if spec is None:
        raise ValueError(
            "ax has no place in a grid: make it by plt.subplots or Figure.add_subplot."
        )
    spec = spec.subgridspec(*shape)
    axes = [ax.figure.add_subplot(cell) for cell in spec]
    return np.array(axes, dtype=object).reshape(shape)


def _classes(estimators):
    """Return the class labels that the classifiers agree on; None of bare networks."""
    found = None
    for name, each in estimators.items():
        classes = getattr(each, "classes_", None)
        if found is None or classes is None:
            found = classes if found is None else found
        elif not np.array_equal(found, classes):
            raise ValueError(
                f"{name} knows the classes {classes}, and another classifier {found}: "
                "draw them in displays of their own."
            )
    return found


def _codes(target, classes):
    """Return the codes of the classes to look at: one of all items, or one of each."""
    labels = np.asarray(target)
    if classes is None:
        return labels
    wrong = labels[~np.isin(labels, classes)]
    if wrong.size:
        raise ValueError(
            f"target={wrong.flat[0]!r} was not a class in fit, which had {classes}."
        )
    return np.searchsorted(classes, labels)
