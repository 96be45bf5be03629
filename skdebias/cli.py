"""The ``skdebias`` command."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

# Only argparse and friends here: torch and scikit-learn take seconds to import, and
# --help must not. Each subcommand imports what it needs when it runs.

_COLUMNS = {
    "path": "default: img_filename, filename, image, path or file_name",
    "label": "default: y, label or target",
    "attribute": "default: place, attribute or a",
    "split": "default: split; its values are 0, 1, 2 or train, val, test",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``skdebias`` command.

    Parameters
    ----------
    argv : sequence of str, default=None
        The arguments after the program's name; those of the process when None.

    Returns
    -------
    int
        Exit code: 0 on success, 2 for input that cannot be used.
    """
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    with _plain_warnings():
        return args.run(args)


@contextmanager
def _plain_warnings():
    """Show a warning as one line; where in the code it was raised says nothing here."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"skdebias: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command and of all its subcommands."""
    parser = argparse.ArgumentParser(
        prog="skdebias",
        description="Classifiers that unlearn spurious correlations.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_demo(commands)
    _add_fit(commands)
    _add_report(commands)
    return parser


class _Version(argparse.Action):
    """Print the version; reading the installed metadata waits until asked for."""

    def __init__(self, option_strings, dest):
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser, namespace, values, option_string=None):
        from skdebias import __version__

        print(f"skdebias {__version__}")
        parser.exit()


def _add_demo(commands) -> None:
    """Add ``skdebias demo``."""
    demo = commands.add_parser(
        "demo",
        help="embed images, compare ERM, resampling and tuned GERNE, write a report",
        description=(
            "Embed images once into a cache, fit ERM, group resampling and GERNE "
            "with a grid search over beta and c, and report the accuracy of every "
            "group on the test rows. Without --images: handwritten digits whose "
            "colour predicts the class in training only; nothing is downloaded."
        ),
    )
    demo.set_defaults(run=_run_demo)
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo_output"),
        help="folder for tables, figure, head and results (default: %(default)s)",
    )
    demo.add_argument(
        "--cache-dir",
        type=Path,
        help="folder of the embedding cache (default: the environment variable "
        "EMBEDDINGS_CACHE, else the folder cache under --out)",
    )
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.add_argument("--quiet", action="store_true", help="print the results only")
    _add_digits(demo)
    _add_images(demo)
    _add_backbone(demo)


def _add_digits(parser) -> None:
    """Add the options of the coloured digits."""
    digits = parser.add_argument_group("the digits")
    digits.add_argument(
        "--correlation",
        type=float,
        default=0.97,
        help="share of the training rows whose colour agrees with the class "
        "(default: %(default)s)",
    )
    digits.add_argument(
        "--task",
        choices=("low_high", "parity"),
        default="low_high",
        help="0-4 against 5-9, or even against odd (default: %(default)s)",
    )


def _add_images(parser) -> None:
    """Add the options that name images and what they are."""
    images = parser.add_argument_group("your own images")
    images.add_argument(
        "--images", type=Path, metavar="FOLDER", help="root of the images"
    )
    images.add_argument(
        "--metadata",
        type=Path,
        metavar="CSV",
        help="table in the style of Waterbirds: image file, y, attribute, split",
    )
    for name, text in _COLUMNS.items():
        images.add_argument(f"--{name}-column", metavar="NAME", help=text)


def _add_backbone(parser) -> None:
    """Add the options that choose the network."""
    backbone = parser.add_argument_group("backbone")
    backbone.add_argument(
        "--backbone",
        metavar="NAME",
        help='for example "timm:resnet50" (downloads its weights); default: the '
        "small network that comes with skdebias",
    )
    backbone.add_argument(
        "--weights", type=Path, metavar="FILE", help="safetensors for --backbone"
    )
    backbone.add_argument(
        "--no-pretrained",
        action="store_true",
        help="seeded random weights for --backbone; nothing is downloaded",
    )


def _add_fit(commands) -> None:
    """Add ``skdebias fit``."""
    fit = commands.add_parser(
        "fit",
        help="fit a head on embeddings in a file, and save it",
        description=(
            "Standardise the training rows of an array of embeddings, fit a linear "
            "head on them, and save both as one safetensors file."
        ),
    )
    fit.set_defaults(run=_run_fit)
    _add_rows(fit)
    fit.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="head to write"
    )
    fit.add_argument(
        "--method",
        choices=("gerne", "erm", "erm-balanced"),
        default="gerne",
        help="GERNE, plain training, or training on balanced groups "
        "(default: %(default)s)",
    )
    for name, value in (("beta", 1.0), ("c", 0.5)):
        fit.add_argument(
            f"--{name}", type=float, default=value, help="GERNE's; default: %(default)s"
        )
    fit.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_report(commands) -> None:
    """Add ``skdebias report``."""
    report = commands.add_parser(
        "report",
        help="print the accuracy of every group for a saved head",
        description="Score a head that skdebias saved, group by group.",
    )
    report.set_defaults(run=_run_report)
    report.add_argument("head", type=Path, help="file written by fit or demo")
    _add_rows(report)
    report.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="test",
        help="rows to score (default: %(default)s)",
    )
    report.add_argument(
        "--out", type=Path, metavar="CSV", help="also write the group table here"
    )


def _add_rows(parser) -> None:
    """Add the arguments that say which rows there are."""
    parser.add_argument(
        "embeddings",
        type=Path,
        help=".npy array (n_samples, n_features), or .npz with an array X",
    )
    parser.add_argument(
        "metadata",
        type=Path,
        help="table in the style of Waterbirds, rows in the order of the embeddings",
    )
    parser.add_argument(
        "--attribute-column", metavar="NAME", help=_COLUMNS["attribute"]
    )


def _run_fit(args: argparse.Namespace) -> int:
    """Run ``skdebias fit``."""
    from skdebias._head_files import HeadInputError, fit_head

    names = ("method", "beta", "c", "seed", "attribute_column")
    options = {name: getattr(args, name) for name in names}
    try:
        fit_head(args.embeddings, args.metadata, args.out, **options, write=print)
    except HeadInputError as error:
        return _fail("fit", error)
    return 0


def _run_report(args: argparse.Namespace) -> int:
    """Run ``skdebias report``."""
    from skdebias._head_files import HeadInputError, report_head

    names = ("split", "attribute_column", "out")
    options = {name: getattr(args, name) for name in names}
    try:
        report_head(args.head, args.embeddings, args.metadata, **options, write=print)
    except HeadInputError as error:
        return _fail("report", error)
    return 0


def _fail(command: str, error: Exception) -> int:
    """Say what is wrong with the input, without a traceback."""
    print(f"skdebias {command}: error: {error}", file=sys.stderr)
    return 2


def _run_demo(args: argparse.Namespace) -> int:
    """Run ``skdebias demo``."""
    from dataclasses import fields
    from functools import partial

    from skdebias._demo import DemoInputError, DemoSettings, run_demo

    names = [field.name for field in fields(DemoSettings)]
    settings = DemoSettings(**{name: getattr(args, name) for name in names})
    try:
        # Flushed: otherwise a pipe shows the lines long after the progress bar.
        run_demo(settings, write=partial(print, flush=True))
    except DemoInputError as error:
        return _fail("demo", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
