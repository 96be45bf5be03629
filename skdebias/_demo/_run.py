"""The demo from start to end."""

import platform
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import sklearn
import torch

import skdebias
from skdebias import export
from skdebias._demo import _report
from skdebias._demo._data import DemoData, load_data
from skdebias._demo._embed import Embeddings, describe_backbone, embed
from skdebias._demo._methods import FittedMethod, Rows, fit_methods
from skdebias._demo._settings import DemoInputError, DemoSettings


def run_demo(settings: DemoSettings, write) -> dict:
    """Embed, fit, search and report.

    Parameters
    ----------
    settings : DemoSettings
        What to run on, and where to put the results.
    write : callable
        Called with every line of text for the user.

    Returns
    -------
    dict
        What is written to ``results.json``.

    Raises
    ------
    DemoInputError
        If the options or the user's files cannot be used.
    """
    start = time.perf_counter()
    say = _silent if settings.quiet else write
    settings.check()
    _check_extras()
    out = _make_folder(settings.out)
    data = load_data(settings)
    counts = data.group_counts()
    _write_lines(say, "Data", [*_wrap(data.title), *_report.format_counts(counts)])
    embeddings = _embed(settings, data, say)
    _write_lines(say, "Training")
    train, val, test = (_take(embeddings, data, s) for s in ("train", "val", "test"))
    fitted = fit_methods(train, val if len(val.y) else None, settings.seed, say)
    summary, groups = _report.score_methods(fitted, test)
    title = f"Accuracy on {len(test.y)} test rows [95 % interval]"
    _write_lines(write, title, _report.format_summary(summary))
    _write_lines(write, "Accuracy of each group", _report.format_groups(groups))
    _write_lines(write, "Chosen", _format_choices(fitted))
    results = _collect(settings, embeddings, fitted, summary)
    results["seconds"] = round(time.perf_counter() - start, 2)
    _write_files(out, fitted, groups, results, write)
    return results


def _check_extras() -> None:
    """Raise DemoInputError now for what would be missing after minutes of work."""
    if find_spec("matplotlib") is None:
        raise DemoInputError(
            "the demo draws with matplotlib, which is not installed: "
            "pip install 'skdebias[demo]'"
        )


def _silent(line: str) -> None:
    """Write nothing: the progress of a quiet run."""


def _write_lines(write, title: str, lines=()) -> None:
    """Write a title and the lines under it."""
    write("")
    write(title)
    for line in lines:
        write(line)


def _wrap(text: str) -> list[str]:
    """Return a sentence as indented lines for the terminal."""
    return textwrap.wrap(text, 84, initial_indent="  ", subsequent_indent="  ")


def _make_folder(folder) -> Path:
    """Create the output folder."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoInputError(
            f"--out {folder}: the folder cannot be made ({error.strerror}); choose "
            "another."
        ) from error
    return Path(folder)


def _embed(settings: DemoSettings, data: DemoData, say) -> Embeddings:
    """Embed the items and say what the cache did."""
    _write_lines(say, "Embeddings", _wrap(describe_backbone(settings)))
    embeddings = embed(settings, data.items)
    n_samples, n_features = embeddings.X.shape
    say(
        f"  {n_samples} images, {n_features} features: {embeddings.n_found} found in "
        f"the cache, {embeddings.n_computed} computed, {embeddings.seconds:.1f} s"
    )
    say(f"  cache: {settings.cache_folder}")
    return embeddings


def _take(embeddings: Embeddings, data: DemoData, split: str) -> Rows:
    """Return the rows of one split."""
    mask = data.rows(split)
    return Rows(embeddings.X[mask], data.y[mask], data.attributes[mask])


def _format_choices(fitted: list[FittedMethod]) -> list[str]:
    """Return a line per search on what it chose."""
    lines = []
    for method in fitted:
        if method.search is None:
            continue
        best, score = method.search.best_params_, method.search.best_score_
        c, beta = best["head__c"], best["head__beta"]
        lines += _wrap(
            f"{method.name}: c={c:g}, beta={beta:g}, which is strength c(1+beta) = "
            f"{c * (1 + beta):.2f} (1 is resampling); worst group {score:.1%} in the "
            f"search of {len(method.search.cv_results_['params'])} candidates, "
            f"{method.seconds:.1f} s"
        )
    return lines


def _collect(settings, embeddings: Embeddings, fitted, summary) -> dict:
    """Return everything worth keeping of a run as JSON values."""
    return {
        "settings": settings.as_json(),
        "backbone": embeddings.backbone,
        "embeddings": {
            "shape": [int(n) for n in np.shape(embeddings.X)],
            "n_found": int(embeddings.n_found),
            "n_computed": int(embeddings.n_computed),
            "seconds": round(embeddings.seconds, 2),
        },
        "scores": summary.to_dict(orient="index"),
        "fit_seconds": {method.name: round(method.seconds, 2) for method in fitted},
        "searches": {
            method.name: _report.search_results(method)
            for method in fitted
            if method.search is not None
        },
        "versions": {
            "python": platform.python_version(),
            "skdebias": skdebias.__version__,
            "scikit-learn": sklearn.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _write_files(out: Path, fitted, groups, results: dict, write) -> None:
    """Write the tables, the figure and the tuned head, and say where they are."""
    # Here, because matplotlib is optional and _check_extras asks for it politely.
    from skdebias._demo import _figure

    groups.to_csv(out / "groups.csv", index=False)
    _figure.draw(out / "groups.png", groups, fitted)
    tuned = next(method for method in fitted if method.search is not None)
    export.save(tuned.pipeline, out / "gerne_head.safetensors")
    _report.write_json(out / "results.json", results)
    names = {
        "groups.csv": "accuracy of each group and method, with intervals",
        "groups.png": "the same as a figure, and the searches over beta and c",
        "gerne_head.safetensors": f"the fitted head of {tuned.name!r}",
        "results.json": "scores, settings, searches, versions and times",
    }
    lines = [f"  {out / name}: {what}" for name, what in names.items()]
    _write_lines(write, f"Done in {results['seconds']:.0f} s", lines)
