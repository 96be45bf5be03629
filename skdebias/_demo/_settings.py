"""What the user can choose, and the error for what cannot be used."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path


class DemoInputError(ValueError):
    """The user's options or files cannot be used; the message says what to change."""


@dataclass(frozen=True)
class DemoSettings:
    """Options of ``skdebias demo``, with the defaults of the command line.

    Parameters
    ----------
    out : path, default="demo_output"
        Folder for tables, figure, head and results.
    cache_dir : path, default=None
        Folder of the embedding cache. None: the environment variable
        ``EMBEDDINGS_CACHE``, else the folder ``cache`` under `out`.
    seed : int, default=0
        Determines the data, the folds and the training.
    quiet : bool, default=False
        Print the results only.
    correlation : float, default=0.97
        Share of training digits whose colour agrees with the class.
    task : {"low_high", "parity"}, default="low_high"
        What the class of a digit is.
    images, metadata : path, default=None
        The user's own images and their table, instead of the digits.
    path_column, label_column, attribute_column, split_column : str, default=None
        Columns of `metadata`; None takes the usual names.
    backbone : str, default=None
        Name of a network; None is the one that comes with skdebias.
    weights : path, default=None
        Safetensors file with the weights of `backbone`.
    no_pretrained : bool, default=False
        Seeded random weights for `backbone`.
    """

    out: Path = Path("demo_output")
    cache_dir: Path | None = None
    seed: int = 0
    quiet: bool = False
    correlation: float = 0.97
    task: str = "low_high"
    images: Path | None = None
    metadata: Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    attribute_column: str | None = None
    split_column: str | None = None
    backbone: str | None = None
    weights: Path | None = None
    no_pretrained: bool = False

    @property
    def cache_folder(self) -> Path:
        """Folder of the embedding cache."""
        chosen = self.cache_dir or os.environ.get("EMBEDDINGS_CACHE")
        return Path(chosen) if chosen else Path(self.out) / "cache"

    def as_json(self) -> dict[str, object]:
        """Return the settings as JSON values."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    def check(self) -> None:
        """Raise DemoInputError for options that do not go together."""
        if (self.images is None) != (self.metadata is None):
            raise DemoInputError(
                "--images and --metadata belong together: the folder of the images "
                "and the table that says what they are. Give both or neither."
            )
        if self.backbone is None and (self.weights or self.no_pretrained):
            option = "--weights" if self.weights else "--no-pretrained"
            raise DemoInputError(
                f"{option} needs --backbone: the weights that come with skdebias "
                "belong to its own network."
            )
        if self.weights is not None and not Path(self.weights).is_file():
            raise DemoInputError(f"--weights {self.weights}: there is no such file.")
        if self.seed < 0:
            raise DemoInputError(f"--seed {self.seed}: give 0 or a positive number.")
