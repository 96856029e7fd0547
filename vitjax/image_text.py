"""What the methods on pictures with texts share: two towers, the embeddings of a batch, and the objective."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, UInt32

from vitjax import augment, health, models, optim, probe
from vitjax.errors import UserError
from vitjax.models import two_towers
from vitjax.objective import Objective, Output, Run, State, Tokens, from_loss

Tree = Any


def towers(config: Any, run: Run) -> two_towers.TwoTowers:
    """The towers of the sections `model`, `text` and `towers`; a vocabulary size of 0 is the tokenizer's.

    Raises:
      UserError: the pictures have no texts, the text tower knows fewer tokens than the tokenizer, or it would look
        for the end of a text where the tokenizer puts none.
    """
    tokens = run.tokens
    if tokens is None:
        raise UserError(
            f"config.objective.name={config.objective.name!r} learns from captions: set config.data.fields=('text',)"
        )
    text = ml_collections.ConfigDict(dict(config.text))
    text.vocab_size = text.vocab_size or tokens.vocab_size
    if text.vocab_size < tokens.vocab_size:
        raise UserError(
            f"config.text.vocab_size={text.vocab_size} is less than the {tokens.vocab_size} tokens of config.data."
            f"tokenizer={config.data.tokenizer!r}; 0 is the tokenizer's own"
        )
    _check_end(text, tokens, config.data.tokenizer)
    return two_towers.make(config.model, text, config.towers, run.dtype)


def _check_end(text: Any, tokens: Tokens, tokenizer: str) -> None:
    """Nothing, if the token that stands for a text is its end.

    A wrong one gives no error later, but embeddings of the first token, or of whichever letter has the largest id.
    """
    end = f"texts of config.data.tokenizer={tokenizer!r} end with {'no token' if tokens.end is None else tokens.end}"
    if text.pool == "eos" and text.eos_id != tokens.end:
        instead = "config.text.pool='last'" if tokens.end is None else f"config.text.eos_id={tokens.end}"
        raise UserError(f"config.text.eos_id={text.eos_id}: {end}; use {instead}")
    if text.pool == "argmax" and tokens.end != tokens.vocab_size - 1:
        instead = "'last'" if tokens.end is None else f"'eos' and config.text.eos_id={tokens.end}"
        raise UserError(
            f"config.text.pool='argmax' takes the token with the largest id, {tokens.vocab_size - 1}, for the end, and "
            f"{end}; use config.text.pool={instead}"
        )


def objective(
    config: Any,
    run: Run,
    model: two_towers.TwoTowers,
    pair_loss: Callable[..., Float[Array, ""]],
    *,
    chance: float | None = None,
    locked: bool = False,
) -> Objective:
    """The objective of a loss of pairs.

    A picture without a caption does not count. Of several captions a picture (`config.data.captions`) each is a pair of
    its own only where it is drawn: training takes one.

    Args:
      pair_loss: (image [B, E], text [B, E], scale, bias, valid=, same=) -> scalar.
      locked: the image tower's features are constants, computed as in evaluation; its head is trained. Then
        `config.init.backbone` must name its weights.

    Raises:
      UserError: a setting makes no sense.
    """
    settings, data = config.objective, config.data
    if data.captions != 1:
        raise UserError(
            f"config.data.captions={data.captions}: training draws one caption of a picture in each epoch; use 1"
        )
    multi_positive, max_scale = settings.multi_positive, settings.max_scale
    if max_scale < 0 or (max_scale and max_scale < config.towers.scale):
        raise UserError(
            f"config.objective.max_scale={max_scale} must be at least config.towers.scale={config.towers.scale}, where "
            "the scale begins, or 0 for no bound"
        )
    tx, rate = optim.make(config, run)
    train_view, eval_view = augment.train_view(config), augment.eval_view(config)
    size_px, length = data.size_px, run.tokens.text_length
    learned = ("scale",) if config.towers.bias is None else ("scale", "bias")

    def init(key: Array, batch: Any) -> Tree:
        images = jnp.zeros((1, size_px, size_px, 3), run.dtype)
        return dict(model.init(key, images, jnp.zeros((1, length), jnp.int32)))

    def embed(params: Tree, extra: Tree, batch: Any, key: Array, step: Array) -> tuple[Tree, Tree]:
        variables, texts = {"params": params, **extra}, batch["text"][:, 0]
        # One draw for the batch as a whole (drop path): the chunks of a step must not share it.
        rngs = {"dropout": jax.random.fold_in(key, batch["row"][0])}
        if locked:
            features = jax.lax.stop_gradient(_features(model, variables, batch["image"]))
            embedded = {
                "image": model.apply(variables, features, method="project_images"),
                "text": model.apply(variables, texts, train=True, rngs=rngs, method="embed_texts"),
            }
            return embedded | {"features": features}, extra
        out, extra = model.apply(variables, batch["image"], texts, train=True, mutable=list(extra), rngs=rngs)
        return {"image": out["image_embed"], "text": out["text_embed"], "features": out["image_embed"]}, extra

    def loss(params: Tree, extra: Tree, embedded: Tree, batch: Any, key: Array, step: Array):
        logits = model.apply({"params": params}, method="scale_and_bias")
        valid = batch["valid"] & batch["text_valid"][:, 0]
        same = caption_numbers(batch["text"][:, 0]) if multi_positive else None
        image, text = embedded["image"], embedded["text"]
        value = pair_loss(image, text, logits["scale"], logits["bias"], valid=valid, same=same)
        metrics = health.panel(image, text) | {name: logits[name] for name in learned}
        return value, Output(
            extra, metrics, weight=jnp.sum(valid), features=embedded["features"], chance=chance
        )

    def after(params: Tree, extra: Tree, step: Array) -> tuple[Tree, Tree]:
        if not max_scale:
            return params, extra
        # The bounds are on the parameter, after the step: a bounded scale within the loss would lose its gradient.
        return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0.0, jnp.log(max_scale))}, extra

    def image_embed(variables: Tree, batch: Any, key: Array) -> Float[Array, "B E"]:
        return model.apply(variables, eval_view(batch), method="embed_images")

    def text_embed(variables: Tree, batch: Mapping[str, Array], key: Array) -> Float[Array, "T E"]:
        return model.apply(variables, batch["text"], method="embed_texts")

    def features(variables: Tree, batch: Any, key: Array) -> Float[Array, "B D"]:
        return _features(model, variables, eval_view(batch))

    def export(state: State) -> Tree:
        return {"params": state.params, **{k: x for k, x in state.extra.items() if k == "batch_stats"}}

    return from_loss(
        init=init,
        embed=embed,
        loss=loss,
        tx=tx,
        rate=rate,
        views=train_view,
        after=after,
        export=export,
        predict={"features": features, "image_embed": image_embed, "text_embed": text_embed},
        probe=probe.make(config, run),
        accum=config.accum,
        embed_chunks=config.embed_chunks,
        needs=("backbone",) if locked else (),
    )


def caption_numbers(ids: Int[Array, "B L"]) -> Int[Array, " B"]:
    """A number for each text, the same for texts of equal tokens.

    Texts are told apart by two hashes of 32 bits, since comparing all pairs would take B x B x L: that two different
    ones of a batch of 32,768 are taken for equal has a probability of 3e-11.
    """
    low, high = (jnp.sum(_mixed(ids, seed), axis=1) for seed in (0, 1))
    order = jnp.lexsort((low, high))
    differs = (jnp.diff(low[order]) != 0) | (jnp.diff(high[order]) != 0)
    numbers = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(differs, dtype=jnp.int32)])
    return jnp.zeros_like(numbers).at[order].set(numbers)


def _mixed(ids: Int[Array, "B L"], seed: int) -> UInt32[Array, "B L"]:
    """Every token and its place as 32 bits that look drawn, so that sums of them meet no more often than chance has it.

    Source: the finaliser of Appleby's MurmurHash3.
    """
    place = jnp.arange(ids.shape[1], dtype=jnp.uint32)
    x = ids.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + place * jnp.uint32(0x85EBCA77) + jnp.uint32(seed * 0x27D4EB2F)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


def _features(model: two_towers.TwoTowers, variables: Tree, images: Array) -> Float[Array, "B D"]:
    """Of the image tower, in evaluation."""
    return model.backbone.apply(models.part(variables, "backbone"), images)["features"]
