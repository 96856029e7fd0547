"""Masked autoencoder: encode the quarter of the patches that stays, predict the pixels of the rest.

Source: He et al., 2022, Masked Autoencoders Are Scalable Vision Learners, section 3 and appendix A.1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vitjax import augment, models, optim, probe
from vitjax.losses import reconstruction
from vitjax.models import mae as mae_model
from vitjax.models import patches
from vitjax.objective import Objective, Output, Run, State, from_loss

KEY_MASK = 100  # apart from the augmentations' numbers, which fold into the same row keys


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds mask_ratio, norm_pix and the decoder's size."""
    model = mae_model.make(config.model, config.objective, run.dtype)
    backbone = models.build(config.model, run.dtype)
    tx, rate = optim.make(config, run)
    norm_pix = config.objective.norm_pix
    patch_px, size_px = config.model.patch_px, config.data.size_px
    num_patches = math.prod(patches.grid(size_px, size_px, patch_px))
    train_view, eval_view = augment.train_view(config), augment.eval_view(config)
    mean, std = config.data.mean, config.data.std

    def init(key: Array, batch: Any) -> dict:
        images = jnp.zeros((1, size_px, size_px, 3), run.dtype)
        return dict(model.init(key, images, jnp.zeros((1, num_patches))))

    def mask_noise(key: Array, rows: Array) -> Float[Array, "B N"]:
        keys = jax.vmap(lambda k: jax.random.fold_in(k, KEY_MASK))(augment.row_keys(key, rows))
        return jax.vmap(lambda k: jax.random.uniform(k, (num_patches,)))(keys)

    def loss(params: Any, extra: Any, batch: Any, key: Array, step: Array):
        noise = mask_noise(key, batch["row"])
        # Drop path is one draw for a batch: the micro-batches of a step must not share it.
        rngs = {"dropout": jax.random.fold_in(key, batch["row"][0])}
        out = model.apply({"params": params}, batch["image"], noise, train=True, rngs=rngs)
        target = patches.patchify(batch["image"], patch_px)
        if norm_pix:
            target = reconstruction.normalise_patches(target)
        value = reconstruction.masked_reconstruction(out["pred"], target, out["mask"])
        return value, Output(extra, weight=jnp.sum(out["mask"]), features=out["features"])

    def export(state: State) -> dict:
        return {"params": state.params}

    def features(variables: Any, batch: Any, key: Array) -> Float[Array, "B D"]:
        return backbone.apply(models.part(variables, "backbone"), eval_view(batch))["features"]

    def pictures(variables: Any, batch: Any, key: Array) -> dict[str, UInt8[Array, "B H W 3"]]:
        """What the network sees: the input, what is left of it, and the prediction in the holes."""
        images = eval_view(batch)
        out = model.apply({"params": variables["params"]}, images, mask_noise(key, batch["row"]))
        seen, pred, hidden = patches.patchify(images, patch_px), out["pred"], out["mask"][..., None] > 0
        if norm_pix:
            # The loss leaves each patch's mean and spread open; the picture borrows them from the input.
            pred = reconstruction.denormalise_patches(pred, seen)

        def show(x: Float[Array, "B N P"]) -> UInt8[Array, "B H W 3"]:
            return augment.to_uint8(patches.unpatchify(x, size_px, size_px, patch_px), mean, std)

        return {
            "input": show(seen),
            "masked": show(jnp.where(hidden, 0.0, seen)),  # 0 is the data's mean colour
            "reconstruction": show(jnp.where(hidden, pred, seen)),
        }

    return from_loss(
        init=init,
        loss=loss,
        tx=tx,
        rate=rate,
        views=train_view,
        export=export,
        predict={"features": features, "reconstruction": pictures},
        accum=config.accum,
        probe=probe.make(config, run),
    )
