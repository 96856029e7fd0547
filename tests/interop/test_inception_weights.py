"""The weights of Inception-v3 as torchvision and pytorch-fid keep them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_libraries
from golden import hash_weights, wave

from vitjax import feature_networks, trees
from vitjax.errors import UserError
from vitjax.interop import inception as weights
from vitjax.interop import table
from vitjax.models.classifier import Classifier
from vitjax.models.inception import Inception


def theirs(torch, model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2)).float()).numpy()


def pytorch_fid(torch):
    """torchvision's module with the pooling of TensorFlow's graph: the last block has 2,048 channels."""
    functions = torch.nn.functional

    def pool(x, kernel_size, stride, padding):
        if x.shape[1] == 2048:
            return functions.max_pool2d(x, kernel_size, stride, padding)
        return functions.avg_pool2d(x, kernel_size, stride, padding, count_include_pad=False)

    return types.SimpleNamespace(avg_pool2d=pool, max_pool2d=functions.max_pool2d, relu=functions.relu)


@pytest.mark.parity
@pytest.mark.parametrize("variant, classes", [("torchvision", 5), ("fid", weights.FID_CLASSES)])
def test_equals_torchvision(variant, classes, monkeypatch):
    torch = reference_libraries.torch()
    module = pytest.importorskip("torchvision").models.inception
    model = module.Inception3(num_classes=classes, aux_logits=False, transform_input=False, init_weights=False).eval()
    state = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    state = {name: torch.from_numpy(np.asarray(x)) for name, x in hash_weights(state).items()}
    state = {name: x.float() if x.is_floating_point() else x for name, x in state.items()}
    model.load_state_dict(state)
    images = wave(1, (2, 107, 107, 3))
    wanted = theirs(torch, model, images)
    if variant == "fid":
        monkeypatch.setattr(module, "F", pytorch_fid(torch))
        plain, wanted = wanted, theirs(torch, model, images)
        assert np.abs(wanted - plain).max() > 1e-2 * np.abs(wanted).max(), "one form would pass as the other"

    found = weights.read({name: x.numpy() for name, x in state.items()})
    assert (found.variant, found.num_classes) == (variant, classes)
    variables = trees.unflatten(found.variables)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(Classifier(Inception(variant), classes).apply)(variables, images.astype(np.float32))
    np.testing.assert_allclose(out["logits"], wanted, atol=1e-4 * np.abs(wanted).max())
    back = table.write(found.variables, weights.rows())
    assert all(np.array_equal(back[name], x) for name, x in state.items())


@pytest.mark.parity
@pytest.mark.parametrize("px", [32, 128, 320])
def test_the_resize_is_that_of_pytorch_fid(px):
    torch = reference_libraries.torch()
    pictures = np.random.default_rng(px).integers(0, 256, (2, px, px, 3), np.uint8)
    pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2)).float() / 255
    resized = torch.nn.functional.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)
    found = feature_networks.inception_view(jnp.asarray(pictures))
    np.testing.assert_allclose(found, (2 * resized - 1).numpy().transpose(0, 2, 3, 1), atol=1e-5)


def written(classes, **more):
    """Weights of an Inception-v3 of zeros, in their layout."""
    shape = jax.ShapeDtypeStruct((1, 75, 75, 3), np.float32)
    made = jax.eval_shape(Classifier(Inception(), classes).init, jax.random.key(0), shape)
    zeros = {path: np.broadcast_to(np.float32(0), x.shape) for path, x in trees.flatten(made).items()}
    return table.write(zeros, weights.rows()) | more


def test_the_auxiliary_classifier_is_left_out_and_counts_may_be_absent():
    flat = written(1000, **{"AuxLogits.fc.weight": np.zeros((1000, 768))})
    flat = {name: x for name, x in flat.items() if not name.endswith("num_batches_tracked")}
    found = weights.read(flat)
    assert (found.variant, found.num_classes) == ("torchvision", 1000)
    assert not [path for path in found.variables if "Aux" in path]


def test_weights_of_something_else_are_refused():
    with pytest.raises(UserError, match="no 'fc.weight': they are not those of an Inception-v3"):
        weights.read({"head.weight": np.zeros((3, 3))})
    with pytest.raises(UserError, match="missing: Conv2d_1a_3x3"):
        weights.read({"fc.weight": np.zeros((1000, 2048))})
