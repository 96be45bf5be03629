"""Table 5: a large grid on a GPU, against one candidate at a time on the same GPU."""

import _common as common
import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import nn

from skdebias import GERNEClassifier
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV


def table(_, arguments):
    """Print the table, or that there is no GPU."""
    common.title(5, "A large grid on a GPU")
    name = arguments.gpu_device
    if name == "cuda" and not torch.cuda.is_available():
        print("\nNo GPU was found, so nothing was measured on one.")
        return
    device = torch.device(name)
    if device.type == "cuda":
        shown = torch.cuda.get_device_name(device)
    else:
        shown = f"{name} (a test of this code, no measurement of a GPU)"

    def settle():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    n_folds = arguments.folds
    X, y, attributes = _generate(arguments.gpu_rows, arguments.gpu_features, device)
    cv = list(
        AttributeStratifiedKFold(n_folds).split(y[:, None], y, attributes=attributes)
    )
    seeds, epochs = list(range(arguments.gpu_seeds)), arguments.gpu_epochs
    grid = common.GRID | {"random_state": seeds}
    chosen, candidates = common.draw(grid, arguments.candidates)
    base = GERNEClassifier(max_iter=epochs, out_of_bounds="clip", device=name)
    train, test = cv[0]
    n_heads = int(np.prod([len(values) for values in grid.values()])) * n_folds

    def search(grid):
        search = BatchedGridSearchCV(base, grid, cv=cv, scoring="accuracy", refit=False)
        search.fit(X, y, attributes=attributes)
        return search.cv_results_["split0_test_score"]

    def one_at_a_time(chosen):
        return [
            accuracy_score(
                y[test],
                GERNEClassifier(**(base.get_params() | candidate))
                .fit(X[train], y[train], attributes[train])
                .predict(X[test]),
            )
            for candidate in chosen
        ]

    def loop(chosen):
        data = X, torch.from_numpy(y).to(device), attributes
        for candidate in chosen:
            plain_loop(*data, train, test, candidate, epochs)

    runs = {
        "search": lambda: search(grid),
        "loop": lambda: loop(candidates),
        "single": lambda: one_at_a_time(candidates),
    }
    # The first calls load the libraries of the device.
    search(common.as_grid(candidates[:1]))
    loop(candidates[:1])
    seconds, results = common.rounds(arguments.repeats, runs, settle)

    print(
        f"\n{shown}: {len(y)} x {X.shape[1]} {str(X.dtype)[6:]} that lie there, "
        f"{n_folds} folds, {len(seeds)} seeds, {epochs} epochs. Loops are measured on "
        f"{len(chosen)} fits of the first fold and scaled to {n_heads}."
    )
    common.head(
        *("all on the device", "fits done", "seconds for all"),
        *("times as long (lowest to highest)", "target", "reached"),
    )
    ours = seconds["search"]
    common.say(
        "BatchedGridSearchCV, sgd", n_heads, f"{common.median(ours):.3g}", "1", "", ""
    )
    for label, run, target in (
        ("PyTorch, one candidate after the other", "loop", (2000, 500)),
        ("GERNEClassifier, one candidate after the other", "single", None),
    ):
        took = seconds[run] * n_heads / len(chosen)
        ratios = took / ours
        cells = ("", "")
        if target is not None:
            cells = common.judge(common.median(ratios), *target)
        common.say(
            *(label, len(chosen), f"{common.median(took):.3g}"),
            *(common.spread(ratios), *cells),
        )
    n_steps = epochs * -(-len(train) // common.BATCH_SIZE)
    _floors(X, n_heads, len(cv) * len(seeds), n_steps, ours, settle)
    common.agreement_head()
    common.agreement("GERNEClassifier", results["search"][chosen], results["single"])


def _generate(n_rows, n_features, device):
    """Rows in half precision on the device; labels and attributes, 5 % minority."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % 2
    attributes = np.where(rng.random(n_rows) < 0.95, y, 1 - y)
    generator = torch.Generator(device).manual_seed(0)
    directions = torch.randn(4, n_features, generator=generator, device=device)
    directions /= directions.norm(dim=1, keepdim=True)
    X = torch.empty(n_rows, n_features, dtype=torch.float16, device=device)
    for start in range(0, n_rows, 16384):
        block = slice(start, start + 16384)
        place = torch.from_numpy(attributes[block]).to(device)
        label = torch.from_numpy(y[block]).to(device)
        noise = torch.randn(len(label), n_features, generator=generator, device=device)
        X[block] = noise + 2 * directions[label] + 4 * directions[2 + place]
    return X, y, attributes


def plain_loop(X, y, attributes, train, test, candidate, epochs):
    """GERNE with autograd and torch.optim, embeddings and all draws on the device."""
    own, device = y[train].cpu().numpy(), X.device
    beta = common.clipped(candidate["beta"], candidate["c"], own, attributes[train])
    group = 2 * own + attributes[train]
    counts = np.bincount(group, minlength=4)
    alpha = counts[group] / np.bincount(own)[own]
    rows, half = torch.from_numpy(train).to(device), common.BATCH_SIZE // 2
    n_steps = epochs * -(-len(train) // common.BATCH_SIZE)
    draws = []
    for c in (0.0, candidate["c"]):
        p = torch.from_numpy((alpha + c * (0.5 - alpha)) / counts[group]).to(device)
        drawn = torch.multinomial(p, n_steps * half, replacement=True)
        draws.append(rows[drawn].view(n_steps, half))
    y = y.float()
    model, loss = nn.Linear(X.shape[1], 1, device=device), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(
        model.parameters(),
        candidate["learning_rate"],
        common.MOMENTUM,
        weight_decay=candidate["weight_decay"],
    )
    for b, lb in zip(*draws):
        biased = loss(model(X[b].float())[:, 0], y[b])
        less = loss(model(X[lb].float())[:, 0], y[lb])
        optimizer.zero_grad()
        (less + beta * (less - biased)).backward()
        optimizer.step()
    held_out = torch.from_numpy(test).to(device)
    with torch.no_grad():
        right = (model(X[held_out].float())[:, 0] > 0) == (y[held_out] > 0)
        return float(right.float().mean())


def _floors(X, n_heads, n_streams, n_steps, ours, settle):
    """Say what the grid would take at the rates measured on this device."""
    large = X.device.type == "cuda"
    size = 1 << (28 if large else 22)
    source = torch.ones(size, device=X.device)
    target, side = torch.empty_like(source), 8192 if large else 512
    A = torch.randn(side, side, device=X.device)

    def copy():
        for _ in range(10):
            target.copy_(source)

    def multiply():
        for _ in range(10):
            torch.mm(A, A)

    copy(), multiply()
    seconds, _ = common.rounds(3, {"copy": copy, "multiply": multiply}, settle)
    bytes_per_second = 10 * 2 * 4 * size / common.median(seconds["copy"])
    flops = 10 * 2 * side**3 / common.median(seconds["multiply"])
    n_features, rows = X.shape[1], common.BATCH_SIZE
    # Every row of a stream is read once, and weight and velocity of SGD are read and
    # written, the gradient read: the least that a step moves.
    moved = n_streams * rows * X.element_size() + n_heads * 5 * 4
    floors = {
        f"memory traffic at {bytes_per_second / 1e9:.3g} GB/s": (
            n_steps * n_features * moved / bytes_per_second
        ),
        f"float32 products at {flops / 1e12:.3g} TFLOP/s": (
            4.0 * n_steps * n_features * rows * n_heads / flops
        ),
    }
    common.head("floor, at the rate measured here", "seconds", "share of the search's")
    for name, floor in floors.items():
        common.say(name, f"{floor:.3g}", f"{floor / common.median(ours):.2g}")
