"""Transformers that read texts: CLIP's, which is causal, and SigLIP's, which sees both ways.

The blocks are those of `vit`, with the same names, so that sharding rules, scanning and rematerialisation are
the same.

Source: Radford et al., 2021, CLIP, section 2.4; Zhai et al., 2023, SigLIP; the authors' repositories.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.models import vit

POOLS = ("argmax", "eos", "last")
INITS = ("clip", "xavier")  # the latter as big_vision begins SigLIP


def make(config: Any, dtype: Any = jnp.float32) -> "TextTransformer":
    """The text tower that `config.text` describes.

    Raises:
      UserError: a setting that is not among the choices, or numbers that do not fit together.
    """
    choices = dict(pool=POOLS, inits=INITS, activation=tuple(vit.ACTIVATIONS), attention=vit.ATTENTIONS)
    for key, known in choices.items():
        if config[key] not in known:
            raise UserError(f"config.text.{key}={config[key]!r} is not known; choose from {', '.join(known)}")
    if config.width % config.heads:
        raise UserError(f"config.text.heads={config.heads} must divide config.text.width={config.width}")
    if not 0 <= config.eos_id < config.vocab_size:
        raise UserError(
            f"config.text.eos_id={config.eos_id} must be an id below config.text.vocab_size={config.vocab_size}"
        )
    if config.attention == "cudnn" and jnp.dtype(dtype).itemsize != 2:
        raise UserError(
            "config.text.attention='cudnn' computes in bfloat16 only; set config.dtype='bfloat16'"
        )
    return TextTransformer(
        width=config.width, depth=config.depth, heads=config.heads, mlp_dim=config.mlp_dim,
        vocab_size=config.vocab_size, causal=config.causal, pool=config.pool, eos_id=config.eos_id,
        norm_eps=config.norm_eps, activation=config.activation, inits=config.inits, scan=config.scan,
        remat=config.remat, attention=config.attention, dtype=dtype,
    )  # fmt: skip


class TextTransformer(nn.Module):
    """{'features': float32 [B, D], 'tokens': [B, L, D]} of token ids [B, L], both after the final norm.

    `pool` says which token stands for the text: the one with the largest id, the first of them ('argmax': CLIP,
    whose end of text has the largest id), the first `eos_id` ('eos'; the first token where there is none), or
    the last one whatever it is ('last': SigLIP, whose texts are padded with the end of text). Padding is not
    masked: before a causal pool it is not seen, and SigLIP attends to it.

    The learned positions have the length of the texts that it was built with, and other lengths are refused.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    vocab_size: int
    causal: bool
    pool: str
    eos_id: int
    norm_eps: float
    activation: str
    inits: str = "clip"
    scan: bool = False
    remat: bool = False
    attention: str = "xla"
    dtype: Any = jnp.float32

    def setup(self):
        clip = self.inits == "clip"
        self.embedding = self.param("embedding", self._embedding_init(0.02), (self.vocab_size, self.width))
        self.positions = Positions(self._embedding_init(0.01))
        nn.share_scope(self, self.positions)
        self.stack = vit.Stack(
            depth=self.depth, heads=self.heads, mlp_dim=self.mlp_dim, norm_eps=self.norm_eps,
            activation=self.activation, scan=self.scan, remat=self.remat, attention=self.attention,
            causal=self.causal, inits=clip_inits(self.width, self.depth) if clip else vit.Inits(),
            dtype=self.dtype,
        )  # fmt: skip
        nn.share_scope(self, self.stack)
        self.norm = nn.LayerNorm(self.norm_eps, dtype=self.dtype)

    def __call__(self, ids: Int[Array, "B L"], train: bool = False) -> dict[str, Array]:
        x = self.positions(self.embedding[ids]).astype(self.dtype)
        x = self.norm(self.stack(x, train))
        at = pooled_at(ids, self.pool, self.eos_id)
        pooled = jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]
        return {"features": pooled.astype(jnp.float32), "tokens": x}

    def _embedding_init(self, clip_std: float) -> nn.initializers.Initializer:
        """CLIP's standard deviation, or big_vision's for tokens and positions alike."""
        return nn.initializers.normal(clip_std if self.inits == "clip" else self.width**-0.5)


class Positions(nn.Module):
    """The tokens plus a learned position each."""

    position_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return x + self.param("position", self.position_init, (1, *x.shape[1:]))


def clip_inits(width: int, depth: int) -> vit.Inits:
    """The kernels of CLIP's text blocks: what is added to the residual stream shrinks with the depth."""
    residual = width**-0.5 * (2 * depth) ** -0.5
    stds = vit.Inits(qkv=width**-0.5, out=residual, fc1=(2 * width) ** -0.5, fc2=residual)
    return vit.Inits(*(nn.initializers.normal(std) for std in stds))


def pooled_at(ids: Int[Array, "B L"], pool: str, eos_id: int) -> Int[Array, " B"]:
    """The place of the token that stands for each text; of several that qualify the first one."""
    if pool == "last":
        return jnp.full(len(ids), ids.shape[1] - 1)
    return jnp.argmax(ids if pool == "argmax" else ids == eos_id, axis=1)
