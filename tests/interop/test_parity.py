"""The same output as the real libraries with fresh weights, which they load again when written back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_libraries
from golden import wave
from ml_collections import ConfigDict

from vitjax import models, trees
from vitjax.interop import mae as mae_weights
from vitjax.interop import table, timm_vit, torchvision_resnet, torchvision_vgg
from vitjax.models.classifier import Classifier
from vitjax.models.mae import MAE
from vitjax.models.positions import sincos2d
from vitjax.models.resnet import ResNet
from vitjax.models.vit import ViT

pytestmark = pytest.mark.parity


def ours(module, flat, *inputs):
    variables = trees.unflatten({path: jnp.asarray(x) for path, x in flat.items()})
    with jax.default_matmul_precision("highest"):
        return jax.jit(module.apply)(variables, *(jnp.asarray(x, jnp.float32) for x in inputs))


def numpy_state(model):
    return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def load_back(torch, model, weights):
    model.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()}, strict=True)


def theirs(torch, model, images, **named):
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        return model.eval()(pixels, **named)


def hugging_face_mae(image_size, patch_size, width):
    """A fresh model, with the positions that published ones have: transformers 5.23 leaves zeros there."""
    torch, transformers = reference_libraries.torch(), reference_libraries.transformers()
    config = transformers.ViTMAEConfig(
        image_size=image_size, patch_size=patch_size, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, layer_norm_eps=1e-6, decoder_hidden_size=width // 2, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=2 * width,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config)
    side = image_size // patch_size
    with torch.no_grad():
        for place, dim in (
            (model.vit.embeddings.position_embeddings, width),
            (model.decoder.decoder_pos_embed, width // 2),
        ):
            place.zero_()[0, 1:] = torch.from_numpy(sincos2d(side, side, dim))
    backbone = ViT(
        width=width,
        depth=2,
        heads=2,
        mlp_dim=2 * width,
        patch_px=patch_size,
        posemb="sincos2d",
        norm_eps=1e-6,
    )
    return torch, transformers, model, MAE(backbone, 0.75, width // 2, 1, 2)


@pytest.mark.parametrize("pool, their_pool", [("cls", "token"), ("gap_norm", "avg"), ("map", "map")])
def test_timm_vit(pool, their_pool):
    torch, timm = reference_libraries.torch(), reference_libraries.timm()
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=7, global_pool=their_pool,
        class_token=pool == "cls",
    )  # fmt: skip
    backbone = ViT(width=48, depth=3, heads=3, mlp_dim=192, patch_px=8, class_token=pool == "cls", pool=pool)
    rows = timm_vit.rows(backbone, (4, 4))
    flat = table.read(numpy_state(model), rows)
    images = wave(1, (2, 32, 32, 3))
    logits = ours(Classifier(backbone, 7), flat, images)["logits"]
    np.testing.assert_allclose(logits, theirs(torch, model, images), atol=1e-4)
    load_back(torch, model, table.write(flat, rows))


@pytest.mark.parametrize("block, bottleneck", [("BasicBlock", False), ("Bottleneck", True)])
def test_timm_resnet(block, bottleneck):
    torch, timm = reference_libraries.torch(), reference_libraries.timm()
    model = timm.models.ResNet(getattr(timm.models.resnet, block), (2, 1, 1, 2), num_classes=7)
    rows = torchvision_resnet.stages((2, 1, 1, 2), bottleneck)
    flat = table.read(numpy_state(model), rows)
    images = wave(1, (2, 64, 64, 3))
    logits = ours(Classifier(ResNet((2, 1, 1, 2), bottleneck), 7), flat, images)["logits"]
    np.testing.assert_allclose(logits, theirs(torch, model, images), atol=1e-4)
    load_back(torch, model, table.write(flat, rows))


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("norm", [False, True])
def test_torchvision_vgg_has_our_names_and_shapes(depth, norm):
    torch = reference_libraries.torch()
    import torchvision

    with torch.device("meta"):  # half a gigabyte otherwise
        model = getattr(torchvision.models, f"vgg{depth}_bn" if norm else f"vgg{depth}")(init_weights=False)
    config = ConfigDict(
        dict(name="vgg", depth=depth, width=64, norm=norm, head_widths=(4096, 4096), dropout=0.5)
    )
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(Classifier(models.build(config), 1000).init, jax.random.key(0), images)
    flat = {path: np.broadcast_to(np.float32(0), x.shape) for path, x in trees.flatten(variables).items()}
    found = {
        name: tuple(x.shape) for row in torchvision_vgg.rows(config)
        for name, x in zip(row.theirs, row.write(tuple(flat[path] for path in row.ours)))
    }  # fmt: skip
    assert found == {name: tuple(x.shape) for name, x in model.state_dict().items()}


def test_hugging_face_mae():
    torch, _, model, mae = hugging_face_mae(32, 8, 48)
    flat = mae_weights.read(numpy_state(model), mae)
    images, noise = wave(1, (2, 32, 32, 3)), (wave(1, (2, 16)) + 1) / 2
    out = ours(mae, flat, images, noise)
    wanted = theirs(torch, model, images, noise=torch.from_numpy(noise))
    np.testing.assert_array_equal(out["mask"], wanted.mask)
    np.testing.assert_allclose(out["pred"], wanted.logits, atol=1e-4)
    load_back(torch, model, table.write(flat, mae_weights.rows(mae, (4, 4), "hf5")))


def test_files_of_hugging_face_mae(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    _, transformers, model, mae = hugging_face_mae(16, 4, 16)
    file = tmp_path / "model.safetensors"
    model.save_pretrained(tmp_path)
    flat = mae_weights.read(numpy_files.load_file(file), mae)
    in_memory = mae_weights.read(numpy_state(model), mae)
    assert sorted(flat) == sorted(in_memory)
    for path, x in flat.items():
        np.testing.assert_array_equal(x, in_memory[path])
    written = table.write(flat, mae_weights.rows(mae, (4, 4), "hf4"))
    numpy_files.save_file(written, file, metadata={"format": "pt"})
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path).state_dict()
    for name, x in model.state_dict().items():
        np.testing.assert_allclose(again[name], x, atol=1e-6, err_msg=name)
