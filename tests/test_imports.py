"""What a wheel holds, what importing does, and what the sources may not do."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests._sources import PACKAGES, ROOT, SOURCES, dotted, relative

OPTIONAL = (
    "timm",
    "open_clip",
    "sentence_transformers",
    "torchvision",
    "matplotlib",
    "rich",
    "accelerate",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "transformers",
    "cv2",
    "imagecorruptions",
)
# The only modules that may use both packages: they are the programs, not the library.
PROGRAMS = ("skdebias/cli.py", "skdebias/_demo/")
# Whole networks read their items as the extractor does, and through one module.
SHARED = "skdebias/finetune/_extraction.py"
# Modules that may do what the table below forbids, each with the reason.
REVIEWED: dict[str, str] = {}

REFUSE_EXTRAS = f"""
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built out of a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    kept = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", *PACKAGES, "tests")
    for name in kept:
        _copy(ROOT / name, source / name)
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(
        [sys.executable, *command, str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(code, site=None, cwd=None):
    """Run code in a new interpreter, in `cwd`, with `site` first on its path."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_wheel_holds_both_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        size = sum(item.compress_size for item in archive.infolist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    expected = {relative(path) for path in SOURCES}
    assert {name for name in names if name.endswith(".py")} == expected
    for name in PACKAGES:
        assert f"{name}/py.typed" in names
    assets = {
        relative(path)
        for path in (ROOT / "skdebias/assets").glob("*")
        if path.suffix in (".safetensors", ".json", ".md")
    }
    assert any(name.endswith(".safetensors") for name in assets)
    assert assets <= names
    assert not [name for name in names if "test" in name.lower()]
    assert size < 5_000_000


def test_wheel_names_both_commands(unpacked):
    (entries,) = unpacked.glob("*.dist-info/entry_points.txt")
    text = entries.read_text(encoding="utf-8")
    assert "skdebias = skdebias.cli:main" in text
    assert "embeddings-cache = embeddings_cache.cli:main" in text
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


def test_the_hook_really_refuses():
    code = REFUSE_EXTRAS + "import matplotlib"
    with pytest.raises(AssertionError, match="No module named 'matplotlib'"):
        run_python(code)


def test_packages_work_without_any_extra(unpacked, tmp_path):
    """From the unpacked wheel, away from the checkout, with all extras refused."""
    code = f"""{REFUSE_EXTRAS}
import json
import numpy as np
import skdebias, embeddings_cache

homes = [skdebias.__file__, embeddings_cache.__file__]
public = {{}}
for package in (skdebias, embeddings_cache):
    for name in package.__all__:
        public[name] = repr(getattr(package, name))
rng = np.random.default_rng(0)
y = rng.integers(0, 2, 200)
X = rng.normal(size=(200, 5)) + 3 * y[:, None] - 1.5
clf = skdebias.ERMClassifier(learning_rate=0.1, random_state=0)
score = clf.fit(X, y).score(X, y)
path = "head.safetensors"
skdebias.export.save(clf, path)
same = bool((skdebias.export.load(path).predict(X) == clf.predict(X)).all())
loaded = sorted(set(sys.modules) & set({OPTIONAL!r}))
print(json.dumps([homes, score, same, loaded]))
"""
    homes, score, same, loaded = json.loads(
        run_python(code, site=unpacked, cwd=tmp_path)
    )
    assert [Path(home).parent.parent for home in homes] == [unpacked, unpacked]
    assert score > 0.95
    assert same
    assert loaded == []


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_extra_names_the_command(package, unpacked, tmp_path):
    """Asking for what an extra brings says how to install the extra."""
    if package == "skdebias":
        use = """
import numpy as np
from skdebias.metrics import GroupAccuracyDisplay
GroupAccuracyDisplay.from_predictions([0, 1], [0, 1], attributes=[0, 1])
"""
        extra = "plot"
    else:
        use = """
import numpy as np
from embeddings_cache import EmbeddingExtractor
images = np.zeros((1, 8, 8, 3), np.uint8)
EmbeddingExtractor("timm:resnet18", pretrained=False, cache_dir="c").transform(images)
"""
        extra = "timm"
    with pytest.raises(AssertionError, match=rf"pip install .*skdebias\[{extra}\]"):
        run_python(REFUSE_EXTRAS + use, site=unpacked, cwd=tmp_path)


@pytest.mark.parametrize("package", PACKAGES)
def test_import_is_light(package):
    """Neither torch nor scikit-learn: `--help` answers at once."""
    heavy = ("torch", "sklearn", "pandas", "scipy", *OPTIONAL)
    code = f"import sys, {package}; print(sorted(set(sys.modules) & set({heavy!r})))"
    assert run_python(code).strip() == "[]"


def test_import_changes_nothing_global():
    """No scikit-learn configuration, seed, thread count or warning filter."""
    code = """
import random, warnings
import numpy as np
import sklearn, sklearn.experimental, torch, torch.utils.data, pandas, scipy, tqdm
import safetensors.torch, threadpoolctl, PIL.Image
import sklearn.model_selection, sklearn.callback, sklearn.metrics
import torch.distributed.checkpoint.state_dict

def state():
    return [
        repr(sklearn.get_config()),
        repr(torch.get_rng_state().sum()), torch.initial_seed(),
        repr(np.random.get_state()), repr(random.getstate()),
        torch.get_num_threads(), torch.get_num_interop_threads(),
        repr(torch.get_default_dtype()), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
        torch.get_float32_matmul_precision(),
        repr(warnings.filters), repr(np.geterr()),
        PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
    ]

import PIL.ImageFile
before = state()
import importlib, pkgutil
import skdebias, embeddings_cache
for package in (skdebias, embeddings_cache):
    for name in package.__all__:
        getattr(package, name)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
after = state()
for one, two in zip(before, after):
    assert one == two, (one, two)
print(sum(name.startswith("skdebias.") for name in __import__("sys").modules))
"""
    assert int(run_python(code)) > 20


def _imports(path):
    """Top-level packages that a module imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            named = isinstance(node.args[0], ast.Constant) and node.args[0].value
            if dotted(node.func).endswith(("import_module", "__import__")):
                yield str(named).partition(".")[0]


def test_packages_never_import_each_other():
    crossing = []
    for path in SOURCES:
        name = relative(path)
        other = PACKAGES[name.startswith(PACKAGES[0])]
        if other in set(_imports(path)):
            crossing.append(name)
    assert [n for n in crossing if not n.startswith(PROGRAMS) and n != SHARED] == []
    assert crossing  # the demo uses both, so the walk does see imports


def _private_parts(path, package):
    """Names of another package that are private and that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == package and any(part.startswith("_") for part in rest):
                yield name


def test_skdebias_takes_public_names_of_the_cache_only():
    private = {
        relative(path): list(_private_parts(path, "embeddings_cache"))
        for path in (ROOT / "skdebias").rglob("*.py")
    }
    assert SHARED in private
    assert {name: parts for name, parts in private.items() if parts} == {}
    (path,) = (ROOT / "embeddings_cache").rglob("networks.py")
    assert list(_private_parts(path, "embeddings_cache"))  # the walk does see them


def test_private_names_of_scikit_learn_are_imported_in_one_module():
    private = {
        relative(path): [*_private_parts(path, "sklearn"), *_private_uses(path)]
        for path in SOURCES
    }
    found = {name for name, parts in private.items() if parts}
    assert found == {"skdebias/_sklearn.py"}


def _private_uses(path):
    """Private names that a module takes as `sklearn.a._b`, without importing them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            first, *rest = dotted(node).split(".")
            if first == "sklearn" and any(
                part.startswith("_") and not part.endswith("__") for part in rest
            ):
                yield dotted(node)


@pytest.mark.parametrize(
    "line",
    [
        "from sklearn.base import _fit_context",
        "from sklearn.utils._param_validation import Interval",
        "import sklearn.metrics._scorer as scorer",
        "import sklearn.utils\nsklearn.utils._safe_indexing([1], [0])",
    ],
)
def test_the_walk_finds_private_names(tmp_path, line):
    path = tmp_path / "bad.py"
    path.write_text(line)
    assert [*_private_parts(path, "sklearn"), *_private_uses(path)]


def _dangers(path):
    """Calls that run code out of data or a shell, as (line, what)."""
    aliases = {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    aliases[alias.asname] = alias.name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, dot, tail = dotted(node.func).partition(".")
        called = aliases.get(head, head) + dot + tail
        keywords = {
            keyword.arg: getattr(keyword.value, "value", None)
            for keyword in node.keywords
        }
        if called in FORBIDDEN:
            yield node.lineno, called
        if called == "numpy.load" and keywords.get("allow_pickle"):
            yield node.lineno, "numpy.load(allow_pickle=True)"
        if keywords.get("shell"):
            yield node.lineno, "shell=True"


FORBIDDEN = {
    *("eval", "exec", "os.system", "os.popen", "subprocess.getoutput"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler"),
    *("joblib.load", "torch.load", "dill.load", "dill.loads", "marshal.loads"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("pandas.read_pickle", "shelve.open"),
}


def test_the_sources_run_no_code_out_of_data():
    found = {relative(path): list(_dangers(path)) for path in SOURCES}
    assert {k: v for k, v in found.items() if v and k not in REVIEWED} == {}
    assert [name for name in REVIEWED if not found.get(name)] == []  # no stale entry


@pytest.mark.parametrize(
    "line",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import load as read\nread(f)",
        "import torch as t\nt.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "eval('1')",
    ],
)
def test_the_walk_finds_dangers(tmp_path, line):
    (tmp_path / "bad.py").write_text(line)
    assert list(_dangers(tmp_path / "bad.py"))
