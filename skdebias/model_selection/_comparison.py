"""The result of a comparison of methods: a table, a verdict, a picture, a page."""

from html import escape
from io import StringIO
from pathlib import Path

from skdebias._atomic import atomic_write


class MethodComparison:
    """What :func:`compare_methods` returns.

    Parameters
    ----------
    **results : dict of str to object
        The attributes, by names without the underscore at their end.

    Attributes
    ----------
    table_ : pandas.DataFrame
        One row a method, the best score first, skipped methods last:

        * `method`, and `told`: which attributes its training has seen.
        * `score`, `low`, `high`: mean over the outer folds, and its interval.
        * `behind`, `behind_low`, `behind_high`: how far it is behind the best method,
          fold by fold, with an interval that holds for all methods together.
        * `level`: whether this interval holds 0, and for the best method itself.
        * `worst_group`, `group_balanced` or, without attributes,
          `worst_inferred_group`: means over the outer folds. Groups of the latter were
          inferred, and are NaN if nothing can be.
        * `average`: mean accuracy.
        * `seconds`: of all its fits and their scores.
        * `n_settings`: how many settings were tried in every choice.
        * `parameters`: the setting that was chosen most often.
        * `skipped`: why there is no score; empty if there is one.
    verdict_ : str
        The result in words.
    winner_ : str or None
        The method that is better than every other one; None if the intervals do not
        say so of any.
    best_method_ : str
        The method to take: the winner, or the simplest of those that are level.
    best_estimator_ : estimator
        `best_method_`, its parameters chosen once more on all rows, and fitted to them.
    best_params_ : dict
        These parameters.
    scores_ : pandas.DataFrame
        The score of every method on every outer fold.
    choices_ : dict of str to list of dict
        The setting of every method on every outer fold.
    regime_ : str
        What was known of the attributes.
    scoring_ : str
        Name of the score.
    """

    def __init__(self, **results):
        for name, value in results.items():
            setattr(self, f"{name}_", value)

    def __repr__(self):
        columns = ["method", "told", "score", "low", "high", "level", "average"]
        table = self.table_.loc[self.table_["skipped"] == "", columns]
        return f"{table.round(3).to_string(index=False)}\n{self.verdict_}"

    def plot(self, *, ax=None):
        """Draw the score of every method with its interval.

        Filled dots are level with the best method. Needs matplotlib:
        ``pip install "skdebias[plot]"``.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on; a new figure if None.

        Returns
        -------
        matplotlib.axes.Axes
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "MethodComparison.plot needs matplotlib: pip install 'skdebias[plot]'"
            ) from error
        table = self.table_[self.table_["skipped"] == ""].iloc[::-1]
        if ax is None:
            height = 1.2 + 0.35 * len(table)
            _, ax = plt.subplots(figsize=(7, height), layout="constrained")
        for position, (_, row) in enumerate(table.iterrows()):
            color = "C0" if row["level"] else "0.5"
            ax.plot([row["low"], row["high"]], [position] * 2, color=color)
            face = color if row["level"] else "white"
            ax.plot(row["score"], position, "o", color=color, markerfacecolor=face)
        ax.set_yticks(range(len(table)), table["method"])
        ax.set_xlabel(f"{self.scoring_.replace('_', ' ')}, 95 % interval")
        ax.grid(axis="x", alpha=0.3)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
        return ax

    def to_html(self, path, *, items=None, extractor=None):
        """Write verdict, picture and table to one file, which needs no other.

        Parameters
        ----------
        path : str or path-like
            Of the file, which is replaced.
        items, extractor : None
            Galleries of items are not written yet: anything else is refused.

        Returns
        -------
        pathlib.Path
        """
        if items is not None or extractor is not None:
            raise NotImplementedError(
                "to_html writes the table and its picture; galleries of items= with "
                "extractor= are not written yet: leave both out."
            )
        table = self.table_.copy()
        table["parameters"] = table["parameters"].map(_as_text)
        page = _PAGE.format(
            verdict=escape(self.verdict_),
            regime=escape(f"{self.regime_} Score: {self.scoring_}."),
            picture=self._picture(),
            table=table.round(3).to_html(index=False, border=0, na_rep="", escape=True),
        )
        path = Path(path)
        with atomic_write(path) as partial:
            partial.write_text(page, encoding="utf-8")
        return path

    def _picture(self):
        """Return the plot as an element of a page."""
        import matplotlib.pyplot as plt

        ax, text = self.plot(), StringIO()
        # Names of parts of the picture are the same in every run.
        with plt.rc_context({"svg.hashsalt": "skdebias", "svg.fonttype": "none"}):
            ax.figure.savefig(
                text, format="svg", transparent=True, metadata={"Date": None}
            )
        plt.close(ax.figure)
        return (
            text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
        )


def _as_text(parameters):
    """Return parameters with numbers of three digits."""
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value!r}"
        for name, value in parameters.items()
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of methods</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; background: #fff; }}
figure {{ background: #fff; margin: 1rem 0; max-width: 44rem; }}
svg {{ width: 100%; height: auto; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ padding: 0.3rem 0.6rem; text-align: left; border-bottom: 1px solid #8884; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #ddd; background: #181818; }}
}}
</style>
</head>
<body>
<h1>Comparison of methods</h1>
<p><strong>{verdict}</strong></p>
<p>{regime}</p>
<figure role="img" aria-label="Score of every method with its interval">
{picture}
</figure>
<div tabindex="0">
{table}
</div>
</body>
</html>
"""
