"""Layers whose weight is divided by its largest singular value, so that none stretches anything (Miyato et al. 2018).

The value is found by power iteration, one step a forward pass in training: its left vector `u` is state, in the
collection 'spectral', in float32, beside the `sigma` that was found last. So that collection must be mutable in
training; in evaluation the step is made all the same, and forgotten. A gradient flows through sigma, with the
vectors held.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.models.convolution import convolve

Init = Callable[..., Array]

EPS = 1e-6  # that of BigGAN's runs, below which a vector is not stretched to length 1


class Linear(nn.Module):
    """x W / sigma + b."""

    features: int
    weight_init: Init
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], train: bool) -> Float[Array, "B F"]:
        kernel = _normalised(self, self.param("kernel", self.weight_init, (x.shape[-1], self.features)), train)
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return x + _bias(self) if self.use_bias else x


class Conv(nn.Module):
    """A square convolution of an odd kernel and stride 1, which keeps the size, with W / sigma."""

    features: int
    kernel: int
    weight_init: Init
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        kernel = self.param(
            "kernel", self.weight_init, (self.kernel, self.kernel, x.shape[-1], self.features)
        )
        kernel = _normalised(self, kernel, train)
        around = (self.kernel // 2, self.kernel // 2)
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), (around, around))
        return x + _bias(self) if self.use_bias else x


class Embed(nn.Module):
    """A row of W / sigma for each class."""

    classes: int
    features: int
    weight_init: Init
    normalised: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: Int[Array, " B"], train: bool) -> Float[Array, "B F"]:
        rows = self.param("embedding", self.weight_init, (self.classes, self.features))
        if self.normalised:
            # Its outputs, which `u` runs over, are the classes: y is one-hot in the product that it stands for.
            rows = _normalised(self, rows.T, train).T
        return jnp.take(rows, y, axis=0).astype(self.dtype)


def largest(spectral: Any) -> Float[Array, ""]:
    """The largest `sigma` of a collection 'spectral'.

    Of weights before their division: it says how far the power iteration has to follow, and grows without bound
    where training blows up.
    """
    found = [x for path, x in jax.tree_util.tree_leaves_with_path(spectral) if path[-1].key == "sigma"]
    return jnp.max(jnp.stack(found))


def power_iteration(
    w: Float[Array, "I O"], u: Float[Array, " O"]
) -> tuple[Float[Array, ""], Float[Array, " O"]]:
    """(sigma, the next u): an estimate from below of the largest singular value of W, after one step from `u`.

    Source: Miyato et al., 2018, Spectral normalization, algorithm 1.
    """
    high = jax.lax.Precision.HIGHEST
    held = jax.lax.stop_gradient(w)
    v = _unit(jnp.dot(held, u, precision=high))
    u = _unit(jnp.dot(v, held, precision=high))
    return jnp.dot(jnp.dot(v, w, precision=high), u, precision=high), u


def _normalised(module: nn.Module, kernel: Float[Array, "... O"], train: bool) -> Float[Array, "... O"]:
    """The kernel over its sigma; the module's `u` moves on in training."""
    outputs = kernel.shape[-1]
    u = module.variable("spectral", "u", lambda: jax.random.normal(module.make_rng("params"), (outputs,)))
    sigma = module.variable("spectral", "sigma", lambda: jnp.ones(()))
    found, moved = power_iteration(kernel.reshape(-1, outputs), u.value)
    if train and not module.is_initializing():
        u.value, sigma.value = moved, jax.lax.stop_gradient(found)
    return kernel / found


def _bias(module: nn.Module) -> Float[Array, " F"]:
    return module.param("bias", nn.initializers.zeros, (module.features,)).astype(module.dtype)


def _unit(x: Float[Array, " D"]) -> Float[Array, " D"]:
    return x / jnp.maximum(jnp.linalg.norm(x), EPS)
