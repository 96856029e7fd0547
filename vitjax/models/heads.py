"""Heads of joint-embedding methods: MLPs described by data, and prototypes.

All take features [B, D] and give float32 [B, E], because what follows (unit vectors, softmax at temperatures of
0.04 to 0.2, covariances) is lost in bfloat16. `vitjax.published_heads` has the published settings.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.models.layers import batch_norm
from vitjax.models.vit import ACTIVATIONS
from vitjax.vectors import normalised

OUT_NORMS = {
    "none": None,
    "affine": dict(scale=True, centre=True),
    "no_centre": dict(scale=True, centre=False),
    "no_affine": dict(scale=False, centre=False),
}
HEAD_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "gelu": ACTIVATIONS["gelu"]}
KERNEL_INITS = ("fan_in_uniform", "fan_in_normal", "normal")


def make(settings: Any, dtype: Any = jnp.float32) -> "MLP | DINOHead":
    """The head that `config.mlp_head` or `config.dino_head` describes.

    Raises:
      UserError: a setting that is not among the choices, no widths, or a width below one.
    """
    for key, known in (
        ("out_norm", OUT_NORMS),
        ("activation", HEAD_ACTIVATIONS),
        ("kernel_init", KERNEL_INITS),
    ):
        if settings[key] not in known:
            raise UserError(f"{key}={settings[key]!r} of a head is not known; choose from {', '.join(known)}")
    widths = tuple(settings.widths)
    if not widths or min(widths) < 1:
        raise UserError(f"widths={widths} of a head must be the width of each layer, such as (4096, 256)")
    mlp = MLP(
        widths=widths, hidden_norm=settings.hidden_norm, hidden_bias=settings.hidden_bias,
        out_bias=settings.out_bias, out_norm=settings.out_norm, activation=settings.activation,
        kernel_init=settings.kernel_init, init_std=settings.init_std, dtype=dtype,
    )  # fmt: skip
    if "prototypes" not in settings:
        return mlp
    if settings.prototypes < 2:
        raise UserError(f"prototypes={settings.prototypes} of a head must be 2 or more; DINO has 65536")
    return DINOHead(mlp, settings.prototypes, settings.norm_last_layer)


class MLP(nn.Module):
    """float32 [B, E] of features [B, D]: linear maps with a norm and an activation between them.

    Biases start at zero, where torch draws them; those before a batch norm mean nothing in any case.

    Attributes:
      widths: of the output of each linear map; the last is E.
      hidden_norm: batch norm after all linear maps but the last.
      hidden_bias, out_bias: of the linear maps before the last, and of the last.
      out_norm: batch norm after the last linear map, with no activation: 'none', 'affine', 'no_centre'
        (a scale and no mean, SimCLR), 'no_affine' (SimSiam, MoCo v3).
      kernel_init: 'fan_in_uniform' (torch), 'fan_in_normal' (haiku), or 'normal' of `init_std`.
    """

    widths: tuple[int, ...]
    hidden_norm: bool = True
    hidden_bias: bool = False
    out_bias: bool = False
    out_norm: str = "none"
    activation: str = "relu"
    kernel_init: str = "fan_in_uniform"
    init_std: float = 0.01
    dtype: Any = jnp.float32

    @property
    def COUPLES_EXAMPLES(self) -> bool:
        return self.out_norm != "none" or (self.hidden_norm and len(self.widths) > 1)

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], train: bool = False) -> Float[Array, "B E"]:
        *hidden, out = self.widths
        for i, width in enumerate(hidden, start=1):
            x = self._linear(width, self.hidden_bias, f"fc{i}")(x)
            x = batch_norm(x, train, f"norm{i}") if self.hidden_norm else x
            x = HEAD_ACTIVATIONS[self.activation](x)
        last = len(self.widths)
        x = self._linear(out, self.out_bias, f"fc{last}")(x).astype(jnp.float32)
        norm = OUT_NORMS[self.out_norm]
        return x if norm is None else batch_norm(x, train, f"norm{last}", **norm)

    def _linear(self, width: int, bias: bool, name: str) -> nn.Dense:
        init = _kernel_init(self.kernel_init, self.init_std)
        return nn.Dense(width, use_bias=bias, dtype=self.dtype, kernel_init=init, name=name)


class Prototypes(nn.Module):
    """Scores float32 [B, K]: the cosines of embeddings [B, E] and `count` prototypes.

    The prototypes are the columns of 'kernel' [E, K]. They start with length one; who trains them keeps it by
    `unit_prototypes` after each update. They are not divided by their length here, so that the gradient is that
    of SwAV, which normalises them outside of what is differentiated.
    """

    count: int

    @nn.compact
    def __call__(self, x: Float[Array, "B E"]) -> Float[Array, "B K"]:
        kernel = self.param("kernel", _unit_columns, (x.shape[-1], self.count))
        return _scores(normalised(x), kernel)


class DINOHead(nn.Module):
    """Logits float32 [B, K] of features [B, D]: an MLP, length one, and a linear map with normalised weights.

    Source: Caron et al. 2021; facebookresearch/dino vision_transformer.py, DINOHead.
    """

    mlp: MLP
    prototypes: int
    norm_last_layer: bool = True

    @property
    def COUPLES_EXAMPLES(self) -> bool:
        return self.mlp.COUPLES_EXAMPLES

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], train: bool = False) -> Float[Array, "B K"]:
        x = normalised(self.mlp(x, train))
        return WeightNormed(self.prototypes, not self.norm_last_layer, name="last")(x)


class WeightNormed(nn.Module):
    """A linear map without bias whose columns are divided by their length within what is differentiated.

    The columns' gains are one and no parameters, unless `learn_gain`; learned ones are kept as [1, K], so that
    weight decay reaches them as in torch, where it often spares vectors.
    """

    features: int
    learn_gain: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B E"]) -> Float[Array, "B K"]:
        kernel = self.param("kernel", _kernel_init("fan_in_uniform"), (x.shape[-1], self.features))
        y = _scores(x, normalised(kernel, axis=0))
        return y * self.param("gain", nn.initializers.ones, (1, self.features)) if self.learn_gain else y


def unit_prototypes(params: Any) -> Any:
    """The parameters of `Prototypes` with each prototype, a column, divided by its length."""
    return jax.tree.map(lambda kernel: normalised(kernel, axis=0), params)


def _scores(x: Float[Array, "B E"], columns: Float[Array, "E K"]) -> Float[Array, "B K"]:
    """Products in full float32: what follows divides them by temperatures down to 0.03."""
    return jnp.dot(x, columns, precision=jax.lax.Precision.HIGHEST)


def _unit_columns(key: Array, shape: tuple[int, int]) -> Float[Array, "E K"]:
    return normalised(jax.random.normal(key, shape), axis=0)


def _kernel_init(name: str, std: float = 0.0) -> Callable:
    """'fan_in_uniform': +-1/sqrt(D), torch's; 'fan_in_normal': 1/sqrt(D), cut at two of it, haiku's; 'normal'."""
    if name == "normal":
        return nn.initializers.normal(std)
    if name == "fan_in_uniform":
        return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    def fan_in_normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "D E"]:
        return nn.initializers.truncated_normal(shape[0] ** -0.5)(key, shape, dtype)

    return fan_in_normal
