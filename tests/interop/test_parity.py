"""The same output as the real libraries with fresh weights, which they load again when written back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_libraries
from golden import wave

from vitjax import trees
from vitjax.interop import mae as mae_weights
from vitjax.interop import table, timm_vit, torchvision_resnet
from vitjax.models.classifier import Classifier
from vitjax.models.mae import MAE
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


def test_hugging_face_mae():
    torch, transformers = reference_libraries.torch(), reference_libraries.transformers()
    settings = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=32, patch_size=8,
        decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=128, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(settings)
    backbone = ViT(width=48, depth=2, heads=3, mlp_dim=96, patch_px=8, posemb="sincos2d")
    mae = MAE(backbone, 0.75, 32, 1, 2)
    flat = mae_weights.read(numpy_state(model), mae)
    images, noise = wave(1, (2, 32, 32, 3)), (wave(1, (2, 16)) + 1) / 2
    out = ours(mae, flat, images, noise)
    wanted = theirs(torch, model, images, noise=torch.from_numpy(noise))
    np.testing.assert_array_equal(out["mask"], wanted.mask)
    np.testing.assert_allclose(out["pred"], wanted.logits, atol=1e-4)
    load_back(torch, model, table.write(flat, mae_weights.rows(mae, (4, 4), "hf5")))


def test_files_of_hugging_face_mae(tmp_path):
    torch, transformers = reference_libraries.torch(), reference_libraries.transformers()
    numpy_files = pytest.importorskip("safetensors.numpy")
    settings = transformers.ViTMAEConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(settings)
    model.save_pretrained(tmp_path)
    mae = MAE(ViT(width=16, depth=2, heads=2, mlp_dim=32, patch_px=4, posemb="sincos2d"), 0.75, 8, 1, 2)
    flat = mae_weights.read(numpy_files.load_file(tmp_path / "model.safetensors"), mae)
    in_memory = mae_weights.read(numpy_state(model), mae)
    assert sorted(flat) == sorted(in_memory)
    for path, x in flat.items():
        np.testing.assert_array_equal(x, in_memory[path])
    written = table.write(flat, mae_weights.rows(mae, (4, 4), "hf4"))
    numpy_files.save_file(written, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path)
    for name, x in model.state_dict().items():
        np.testing.assert_allclose(again.state_dict()[name], x, atol=1e-6, err_msg=name)
