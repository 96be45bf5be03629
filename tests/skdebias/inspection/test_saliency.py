"""SaliencyDisplay: maps in closed form and by another library, and the axes' grid."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from embeddings_cache import EmbeddingExtractor
from skdebias import ERMClassifier, ULEClassifier
from skdebias.finetune import FineTuneClassifier
from skdebias.inspection import SaliencyDisplay
from skdebias.inspection._maps import ClassScores, network_of

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _images(n_classes=2, n=24, channels=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    images = rng.random((n, channels, 12, 12), dtype=np.float32)
    for row, label in enumerate(y):
        images[row, :, :3, 3 * label : 3 * label + 3] += 1
    return images, np.array(["ant", "bee", "cat"])[y]


class Body(nn.Module):
    """Convolutions with an activation in place, which a hook must not be fooled by."""

    def __init__(self, channels=3):
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(4, 6, 3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(self.last(self.act(self.norm(self.first(x))))).flatten(1)


def _network(n_classes=2, method=None, body=None, channels=3):
    torch.manual_seed(0)
    images, y = _images(n_classes, channels=channels)
    clf = FineTuneClassifier(
        ERMClassifier() if method is None else method,
        Body(channels) if body is None else body,
        modality="tensor",
        max_iter=3,
        learning_rate=0.05,
        device="cpu",
        random_state=0,
    )
    return clf.fit(images, y), images, y


@pytest.mark.parametrize("n_classes", [2, 3])
def test_input_maps_of_a_linear_network_are_its_weights(n_classes):
    clf, images, y = _network(n_classes, body=nn.Flatten())
    display = SaliencyDisplay.from_estimator(clf, images[:5], target=y[:5])
    weight = clf.network_.linear_layers[0].weight.detach().numpy()
    if n_classes == 2:
        weight = np.concatenate([-weight, weight])
    codes = np.searchsorted(clf.classes_, y[:5])
    expected = weight[codes].reshape(5, 3, 12, 12).sum(1)
    (maps,) = display.maps.values()
    np.testing.assert_allclose(maps, expected, rtol=1e-6)
    (predicted,) = display.predicted.values()
    np.testing.assert_array_equal(predicted, clf.predict(images[:5]))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("layer", [None, "first", "norm"])
def test_grad_cam_by_finite_differences_of_the_layer(n_classes, layer):
    """The mean gradient of a channel is what adding to all of its pixels changes."""
    clf, images, y = _network(n_classes)
    display = SaliencyDisplay.from_estimator(
        clf, images[:2], kind="grad_cam", layer=layer, target=y[0]
    )
    body, code = clf.network_.backbone, int(np.searchsorted(clf.classes_, y[0]))
    module, batch = ClassScores(clf.network_).eval(), torch.from_numpy(images[:2])
    seen, shift = [], torch.zeros(1)
    at = body.last if layer is None else getattr(body, layer)

    def change(_, __, output):
        seen.append(output.detach().clone())
        return output + shift

    hook = at.register_forward_hook(change)
    with torch.no_grad():
        module(batch)
        n_channels = seen[0].shape[1]
        slopes = []
        for channel in range(n_channels):
            pair = []
            for step in (1e-2, -1e-2):
                shift = torch.zeros(1, n_channels, 1, 1)
                shift[0, channel] = step
                pair.append(module(batch)[:, code])
            slopes.append((pair[0] - pair[1]) / 2e-2)
    hook.remove()
    mean = torch.stack(slopes, 1)[..., None, None] / seen[0][0, 0].numel()
    cam = (mean * seen[0]).sum(1, keepdim=True).relu()
    expected = nn.functional.interpolate(cam, (12, 12), mode="bilinear")[:, 0]
    (maps,) = display.maps.values()
    scale = float(expected.max()) or 1.0
    assert maps.max() > 0
    # A step goes over kinks of the activations behind the layer.
    tolerance = 0.02 if layer is None else 0.1
    np.testing.assert_allclose(maps, expected, atol=tolerance * scale)


def test_maps_are_those_of_captum():
    attr = pytest.importorskip("captum.attr")
    clf, images, _ = _network(3)
    module, batch = ClassScores(clf.network_).eval(), torch.from_numpy(images[:4])
    codes = torch.tensor([0, 1, 2, 0])
    given = {"target": clf.classes_[codes.numpy()]}
    with pytest.warns(UserWarning, match="gradients"):
        expected = attr.Saliency(module).attribute(batch, target=codes, abs=False)
    (maps,) = SaliencyDisplay.from_estimator(clf, images[:4], **given).maps.values()
    np.testing.assert_allclose(maps, expected.detach().sum(1), rtol=1e-5, atol=1e-7)
    cam = attr.LayerGradCam(module, clf.network_.backbone.last)
    small = cam.attribute(batch, target=codes, relu_attributions=True).detach()
    expected = nn.functional.interpolate(small, (12, 12), mode="bilinear")[:, 0]
    (maps,) = SaliencyDisplay.from_estimator(
        clf, images[:4], kind="grad_cam", **given
    ).maps.values()
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_a_head_on_a_backbone_is_the_network_of_both():
    torch.manual_seed(0)
    images = (255 * np.clip(_images()[0] / 2, 0, 1)).astype(np.uint8)
    images, y = images.transpose(0, 2, 3, 1), _images()[1]
    extractor = EmbeddingExtractor(
        Body().eval(),
        preprocess={"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 12, "crop": 1.0},
        storage_dtype="float32",
        precision="float32",
        progress=False,
        device="cpu",
    )
    X = extractor.transform(images)
    head = make_pipeline(StandardScaler(), ERMClassifier(random_state=0)).fit(X, y)
    network = network_of(head, extractor)
    display = SaliencyDisplay.from_estimator(
        {"head": head}, images[:3], extractor=extractor, kind="grad_cam"
    )
    np.testing.assert_array_equal(display.predicted["head"], head.predict(X[:3]))
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    scores = ClassScores(network).eval()(batch)[:, 1].detach()
    np.testing.assert_allclose(scores, head.decision_function(X), atol=1e-4)
    # What is shown is what the network sees, however it was normalised.
    assert display.images.shape == (3, 12, 12, 3)
    assert display.images.min() == 0.0
    assert display.images.max() == 1.0


class Tokens(nn.Module):
    """A class token, and one token for each of nine places."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 4, stride=4)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return self.norm(tokens).tanh().mean(1)


def test_tokens_lie_where_their_patches_do():
    clf, images, _ = _network(body=Tokens())
    with pytest.raises(ValueError, match=r"layer=None: .* transformer"):
        SaliencyDisplay.from_estimator(clf, images[:2], kind="grad_cam")
    (maps,) = SaliencyDisplay.from_estimator(
        clf, images[:2], kind="grad_cam", layer="norm"
    ).maps.values()
    body = clf.network_.backbone
    tokens = body.norm(
        torch.cat(
            [
                (t := body.patches(torch.from_numpy(images[:2])).flatten(2).mT).mean(
                    1, keepdim=True
                ),
                t,
            ],
            1,
        )
    )
    tokens = tokens.detach().requires_grad_()
    scores = nn.functional.linear(
        tokens.tanh().mean(1), clf.network_.linear_layers[0].weight
    )
    signs = torch.from_numpy(np.where(clf.predict(images[:2]) == "bee", 1.0, -1.0))
    (slope,) = torch.autograd.grad((scores[:, 0] * signs).sum(), tokens)
    cam = (slope[:, 1:].mean(1, keepdim=True) * tokens[:, 1:]).sum(2).relu()
    cam = cam.detach().reshape(2, 1, 3, 3)
    expected = nn.functional.interpolate(cam, (12, 12), mode="bilinear")[:, 0]
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_a_function_of_module_batch_and_codes():
    clf, images, _ = _network(3)

    def times_input(module, batch, codes):
        pixels = batch.clone().requires_grad_()
        scores = module(pixels).gather(1, codes[:, None])
        return torch.autograd.grad(scores.sum(), pixels)[0] * batch

    (own,) = SaliencyDisplay.from_estimator(
        clf, images[:2], kind=times_input
    ).maps.values()
    assert own.shape == (2, 12, 12)
    with pytest.raises(ValueError, match=r"returned maps of shape \(2, 5\)"):
        SaliencyDisplay.from_estimator(
            clf, images[:2], kind=lambda *_: torch.zeros(2, 5)
        )


def test_several_networks_on_given_axes():
    method = ULEClassifier(saliency="logit", student_loss="ce")
    clf, images, _ = _network(3, method=method)
    trained = [p.clone() for p in clf.network_.parameters()]
    networks = {"teacher": clf, "student": clf.student_network_}
    display = SaliencyDisplay.from_estimator(networks, images[:4], titles=list("abcd"))
    assert display.axes_.shape == (3, 4)
    assert [axis.get_ylabel() for axis in display.axes_[:, 0]] == ["", *networks]
    assert [axis.get_title() for axis in display.axes_[0]] == list("abcd")
    assert not np.allclose(display.maps["teacher"], display.maps["student"])
    for before, after in zip(trained, clf.network_.parameters()):
        assert torch.equal(before, after)
        assert after.grad is None
    figure, (left, right) = plt.subplots(1, 2)
    again = display.plot(ax=right)
    assert again.figure_ is figure
    assert not right.axison
    assert left.axison
    _, axes = plt.subplots(3, 4)
    assert display.plot(ax=axes, cmap="gray", vmin=-1).axes_ is not axes[0]
    with pytest.raises(ValueError, match=r"should have \(3, 4\)"):
        display.plot(ax=axes[:2])


def test_modes_of_modules_are_left_as_they_are():
    clf, images, _ = _network()
    clf.network_.backbone.norm.train()
    modes = [module.training for module in clf.network_.modules()]
    mean = clf.network_.backbone.norm.running_mean.clone()
    SaliencyDisplay.from_estimator(clf, images[:2], kind="grad_cam")
    assert modes == [module.training for module in clf.network_.modules()]
    assert torch.equal(mean, clf.network_.backbone.norm.running_mean)


def test_maps_of_zeros_are_drawn():
    SaliencyDisplay(np.zeros((1, 4, 4)), {"none": np.zeros((1, 4, 4))}).plot()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gradient"}, "kind='gradient' must be"),
        ({"layer": "first"}, "layer='first' has an effect on kind='grad_cam' alone"),
        ({"kind": "grad_cam", "layer": "third"}, "'third' is no module .*'first'"),
        ({"kind": "grad_cam", "layer": "pool.x"}, r"'pool\.x' is no module"),
        ({"target": "dog"}, "'dog'.* was not a class"),
        ({"target": ["ant"] * 5}, "target has 5 labels for 2 items"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    clf, images, _ = _network()
    with pytest.raises(ValueError, match=message):
        SaliencyDisplay.from_estimator(clf, images[:2], **arguments)


def test_heads_and_items_that_have_no_pixels():
    head = ERMClassifier(max_iter=1).fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="is a head, which sees embeddings"):
        SaliencyDisplay.from_estimator(head, np.zeros((2, 4)))
    clf = FineTuneClassifier(
        ERMClassifier(), nn.Identity(), modality="tensor", max_iter=1, device="cpu"
    ).fit(np.eye(4, dtype=np.float32), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"of shape \(2, 4\): saliencies need images"):
        SaliencyDisplay.from_estimator(clf, np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="knows the classes"):
        SaliencyDisplay.from_estimator({"a": clf, "b": _network()[0]}, np.eye(4))
