"""A method of two towers with the plainest loss there is: for tests of what is done with its weights."""

import jax
import jax.numpy as jnp
import optax

from vitjax import augment
from vitjax.models import two_towers
from vitjax.objective import Output, from_loss


def make(config, run):
    """The objective; the sections `model`, `text` and `towers` say which towers."""
    model = two_towers.make(config.model, config.text, config.towers, run.dtype)
    view, size_px, length = augment.eval_view(config), config.data.size_px, config.data.text_length

    def init(key, batch):
        return dict(model.init(key, jnp.zeros((1, size_px, size_px, 3)), jnp.zeros((1, length), jnp.int32)))

    def loss(params, extra, batch, key, step):
        out = model.apply({"params": params}, view(batch), batch["text"][:, 0])
        return -jnp.mean(out["image_embed"] * out["text_embed"]), Output(extra)

    def embed(variables, batch, key):
        return model.apply(variables, view(batch), method="embed_images")

    def embed_texts(variables, batch, key):
        return model.apply(variables, batch["text"], method="embed_texts")

    return from_loss(
        init=init, loss=loss, tx=optax.sgd(1e-3), export=lambda state: {"params": state.params},
        predict={"image_embed": embed, "text_embed": embed_texts},
    )  # fmt: skip


def surroundings_spec(size_px):
    """Shapes of a batch of four pictures."""
    spec = {"image": ((4, size_px, size_px, 3), "uint8"), "size": ((4, 2), "int32"), "row": ((4,), "int32")}
    return {name: jax.ShapeDtypeStruct(*x) for name, x in spec.items()}
