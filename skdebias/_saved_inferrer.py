"""An estimator of pseudo-attributes in a file: its class by name, and parameters."""

from typing import Any


class SavedInferrer:
    """Stands for an estimator of `skdebias.attributes` until that is needed.

    Only fitting needs it, and it may bring torch, which predicting does not need.

    Parameters
    ----------
    name : str
        Of the class, in `skdebias.attributes`.
    params : dict of str to object
    """

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        self.name, self.params = name, params

    def __repr__(self) -> str:
        return repr(self._restored())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SavedInferrer) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def uses_attributes(self) -> bool:
        """Whether it learns from rows that have attributes."""
        return bool(self._restored().uses_attributes)

    def fit_predict(self, X: Any, y: Any, **given: Any) -> Any:
        """Infer the attributes of training rows."""
        self._fitted = self._restored()
        return self._fitted.fit_predict(X, y, **given)

    def predict(self, X: Any, y: Any) -> Any:
        """Assign other rows."""
        return self._fitted.predict(X, y)

    def _restored(self) -> Any:
        from skdebias import attributes

        kind = None
        if self.name in attributes.__all__:
            kind = getattr(attributes, self.name)
        if not hasattr(kind, "fit_predict"):
            raise ValueError(
                f"pseudo_attributes is {self.name!r} in the file, and "
                "skdebias.attributes has no such estimator: give another by set_params "
                "before fitting again."
            )
        return kind(**self.params)


def saved_inferrer(value: Any) -> SavedInferrer | None:
    """Return what stands for an estimator of pseudo-attributes in a file.

    Parameters
    ----------
    value : estimator, SavedInferrer or None

    Returns
    -------
    SavedInferrer or None
        None for what is no estimator of `skdebias.attributes`.
    """
    if value is None or isinstance(value, SavedInferrer):
        return value
    if type(value).__module__.rpartition(".")[0] != "skdebias.attributes":
        return None
    return SavedInferrer(type(value).__name__, value.get_params(deep=False))
