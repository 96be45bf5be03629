"""Comparison of methods on one's own embeddings, nested and at equal budgets."""

import warnings
from contextlib import ExitStack, contextmanager
from numbers import Integral

import numpy as np
from joblib import effective_n_jobs
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils import check_random_state
from tqdm import tqdm

from skdebias._context import standard_context
from skdebias._named_groups import UnusableAttributesWarning
from skdebias._thread_limits import own_threads
from skdebias._warnings import AttributesIgnoredWarning, announced
from skdebias.model_selection._compared_rows import (
    divide,
    infer_groups,
    make_measures,
    read_rows,
)
from skdebias.model_selection._comparison import MethodComparison
from skdebias.model_selection._contenders import make_contenders
from skdebias.model_selection._nested import NestedRun
from skdebias.model_selection._outcome import Outcome


def compare_methods(
    X,
    y,
    attributes=None,
    *,
    X_val=None,
    y_val=None,
    attributes_val=None,
    methods="auto",
    scoring=None,
    cv=5,
    repeats=1,
    budget=20,
    random_state=None,
    n_jobs=None,
    verbose=1,
):
    """Compare methods on embeddings, and say which one to take.

    Every method has the same folds and the same number of settings to try, and its
    settings are chosen anew for every fold that it is scored on, by rows outside of
    that fold (nested cross-validation). A method is named the winner only where the
    intervals of its differences to all others, fold by fold, say so. Otherwise the
    simplest of the methods that are level with the best is the one to take.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. Every fit standardises them by its own training rows.
    y : array-like of shape (n_samples,)
        Class labels.
    attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
        Spurious attributes, known of all rows or of none; several columns are crossed.
    X_val, y_val, attributes_val : array-like, default=None
        Validation rows. With `attributes`, or without any, they choose the parameters
        and nothing else. If attributes are known of them only, they are what is divided
        into folds: methods that need attributes train on validation rows, all others on
        X, and both are chosen and scored on validation rows.
    methods : "auto", list of str or dict, default="auto"
        "auto" is what applies and takes no minutes. Names are `"ERM-class"`, `"ERM"`,
        `"ERM-group"`, `"LogitAdjustment"`, `"GroupDRO"`, `"GERNE"`, `"DFR"`,
        `"CVaRDRO"`, `"VREx"`, `"IRM"`, `"LISA"`, `"JTT"`, `"AFR"`, `"LfF"`, `"UGC"`,
        `"GERNE-inferred"` and `"ULE"`, from the simplest to the least simple one. A
        dict has estimators, or pairs `(estimator, grid)` of an estimator of skdebias or
        a Pipeline that ends in one, and lists or distributions of its parameters;
        `{}` in a list of grids stands for the estimator as it is. The simpler come
        first. Class-balanced ERM, `"ERM-class"`, is always the baseline, and the
        simplest.
    scoring : str or scorer, default=None
        None is worst-group accuracy where attributes are known of rows that are scored,
        and worst-class accuracy otherwise. Also a name of
        :func:`skdebias.metrics.get_scorer_names`, or a scorer made by `make_scorer` or
        :func:`skdebias.metrics.make_group_scorer`.
    cv : int, splitter or iterable, default=5
        At least 3 folds, stratified by class and attribute. A splitter's test rows must
        be folds: every row in one of them.
    repeats : int, default=1
        Divisions into folds. More of them narrow the intervals.
    budget : int, default=20
        Settings of every method, the method's defaults among them; fewer where there
        are no more.
    random_state : int, RandomState instance or None, default=None
        Of folds, settings and training.
    n_jobs : int, default=None
        Heads of how many stacks train at the same time; None is torch's number of
        threads, -1 all cores. Results do not depend on it.
    verbose : int, default=1
        Above 0, a progress bar over fits.

    Returns
    -------
    MethodComparison
        With `table_`, `verdict_`, `winner_`, `best_method_`, `best_estimator_`,
        `scores_`, `choices_`, `plot()` and `to_html(path)`.

    Raises
    ------
    ValueError
        If there is one class, or fewer rows of one than folds; if attributes are known
        of some rows only; if a name is unknown; or if no method could be trained.
    TypeError
        If the score needs attributes and there are none.

    See Also
    --------
    BatchedGridSearchCV : Tunes one method.
    skdebias.metrics.corrected_interval : The intervals.

    Notes
    -----
    For outer fold i, the other folds j choose in turn, by heads that are trained
    without i and without j. Such a head is scored on both, and counts for j where i is
    left out and for i where j is: 10 trainings for 5 outer times 4 inner folds. The
    rows of an outer fold reach neither the fits nor the choice that their score is of.
    Without attributes, groups are inferred once from all rows (XRM, on a sample of
    them), for `worst_inferred_group` alone: no fit and no choice sees them.

    Intervals are those of Nadeau and Bengio, 95 %. Those of the differences to the best
    method hold together, over all methods. They are about other rows like these: if all
    rows share a bias that new ones have not, no fold shows it. Where validation rows
    alone have attributes, they do not include the variation of X.

    What an estimator costs is what its settings cost: 10 stacks of `budget` heads, and
    5 of one. Warnings of single fits are not shown, those of the refit are.

    Examples
    --------
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.model_selection import compare_methods
    >>> X, y, attributes = make_spurious_classification(
    ...     1200, n_features=5, random_state=0
    ... )
    >>> result = compare_methods(
    ...     X, y, attributes, methods=["ERM-group"], budget=2, random_state=0, verbose=0
    ... )
    >>> result.winner_, result.best_method_
    ('ERM-group', 'ERM-group')
    >>> result.table_[["method", "told"]].to_numpy().tolist()
    [['ERM-group', 'attributes'], ['ERM-class', 'labels only']]
    >>> result.best_estimator_.predict(X).shape
    (1200,)
    """
    for name, value, least in (("budget", budget, 1), ("repeats", repeats, 1)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer of {least} or more.")
    if n_jobs == 0 or not (n_jobs is None or isinstance(n_jobs, Integral)):
        raise ValueError(f"n_jobs={n_jobs!r} must be None, -1 or a positive integer.")
    given = read_rows(X, y, attributes, X_val, y_val, attributes_val)
    rng = check_random_state(random_state)
    seed = int(rng.randint(2**31 - 1))
    contenders = make_contenders(
        methods,
        attributes_known=given.attributes is not None,
        annotated_apart=given.annotated_apart,
        budget=budget,
        seed=seed,
    )
    divisions = divide(given, cv, repeats, seed)
    with _training(n_jobs):
        inferred = None
        if given.attributes is None:
            inferred = infer_groups(given, seed)
        measures, name = make_measures(scoring, given, inferred)
        bar = tqdm(unit="fit", disable=not verbose, desc="comparing")
        with bar:
            runs = [NestedRun(folded, measures, bar.update) for folded in divisions]
            outer = range(divisions[0].n_folds)
            bar.total = len(runs) * runs[0].n_fits(contenders, outer)
            outcome = Outcome(contenders, _run_all(runs, contenders, outer), divisions)
            chosen = contenders[outcome.chosen]
            bar.total += runs[0].n_fits([chosen], [None])
            number = runs[0].choose([chosen], [None])[0][None]
    return MethodComparison(
        best_estimator=_refit(chosen, number, given, divisions[0], n_jobs),
        best_params=chosen.shown[number],
        regime=given.regime,
        scoring=name,
        **outcome.report(name, given),
    )


@contextmanager
def _training(n_jobs, quiet=True):
    """Run a block of fits: with a number of threads, and without their warnings."""
    from skdebias._engine._threads import one_thread

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(standard_context())
        if n_jobs is not None:
            enter(own_threads(effective_n_jobs(n_jobs)))
        enter(one_thread())
        enter(config_context(enable_metadata_routing=True))
        enter(announced(UnusableAttributesWarning, AttributesIgnoredWarning))
        if quiet:
            enter(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        yield


def _run_all(runs, contenders, outer):
    """Return all measures of all methods on the outer folds of all runs."""
    results = [{} for _ in contenders]
    for run in runs:
        chosen = run.choose(contenders, outer)
        for number, of_run in enumerate(run.evaluate(contenders, chosen)):
            contenders[number].chosen += [chosen[number][fold] for fold in outer]
            for name, values in of_run.items():
                results[number].setdefault(name, []).append(values)
    return [{k: np.concatenate(v) for k, v in one.items()} for one in results]


def _refit(contender, number, given, folded, n_jobs):
    """Return a method with one of its settings, fitted to all rows it may train on."""
    model = clone(contender.estimator)
    model.set_params(**clone(contender.settings[number], safe=False))
    rows = folded.trained_on(contender.annotated)
    told = {"attributes": given.told[rows]} if contender.annotated else {}
    with _training(n_jobs, quiet=False):
        return model.fit(given.features(rows), given.y[rows], **told)
