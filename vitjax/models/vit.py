"""Vision transformers: Ti, S, B, L, H and anything between (Dosovitskiy et al. 2021).

Pre-norm blocks with one fused qkv projection. `ViT` is a backbone: pictures in, features and tokens out, no
classifier. Blocks are named block_00, block_01, ... or, scanned, `blocks` with depth as the first axis of
each leaf; both compute the same numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax import sharding, trees
from vitjax.errors import UserError
from vitjax.models import patches, positions

VARIANTS = {
    "Ti": dict(width=192, depth=12, heads=3, mlp_dim=768),
    "S": dict(width=384, depth=12, heads=6, mlp_dim=1536),
    "B": dict(width=768, depth=12, heads=12, mlp_dim=3072),
    "L": dict(width=1024, depth=24, heads=16, mlp_dim=4096),
    "H": dict(width=1280, depth=32, heads=16, mlp_dim=5120),
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    # Not jax.nn.gelu(approximate=False): it goes through erfc, which takes 3 to 5 times as long on CPUs.
    "gelu": lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
POOLS = ("cls", "gap", "gap_norm", "gap_std", "map")
MIN_VARIANCE = 1e-6  # of a feature over the tokens: the root of a zero has no gradient
POSEMBS = ("learned", *positions.FIXED)
ATTENTIONS = ("xla", "cudnn")

XAVIER = nn.initializers.xavier_uniform()
NORMAL = nn.initializers.normal(0.02)


def make(config: Any, dtype: Any = jnp.float32) -> "ViT":
    """The backbone that `config.model` describes.

    Raises:
      UserError: a setting that is not among the choices, or widths that do not fit together.
    """
    _choose("pool", config.pool, POOLS)
    _choose("posemb", config.posemb, POSEMBS)
    _choose("activation", config.activation, tuple(ACTIVATIONS))
    _choose("attention", config.attention, ATTENTIONS)
    if config.width % config.heads:
        raise UserError(f"config.model.heads={config.heads} must divide config.model.width={config.width}")
    if config.posemb in positions.FIXED and config.width % 4:
        raise UserError(
            f"config.model.width={config.width} must be a multiple of 4 for posemb={config.posemb!r}"
        )
    if config.pool == "cls" and not config.class_token:
        raise UserError("config.model.pool='cls' needs config.model.class_token=True; or set pool='gap'")
    if config.attention == "cudnn" and jnp.dtype(dtype).itemsize != 2:
        raise UserError(
            "config.model.attention='cudnn' computes in bfloat16 only; set config.dtype='bfloat16'"
        )
    return ViT(
        width=config.width, depth=config.depth, heads=config.heads, mlp_dim=config.mlp_dim,
        patch_px=config.patch_px, class_token=config.class_token, pool=config.pool, posemb=config.posemb,
        norm_eps=config.norm_eps, activation=config.activation, drop_path=config.drop_path,
        scan=config.scan, remat=config.remat, attention=config.attention, dtype=dtype,
    )  # fmt: skip


class ViT(nn.Module):
    """{'features': float32 [B, D], 'tokens': patch tokens [B, N, D]} of normalised pictures [B, H, W, 3].

    `pool` says what the features are: the class token ('cls'), the mean of the normalised patch tokens
    ('gap'), the norm of the mean ('gap_norm', timm's fc_norm and MAE's fine-tuning, in which the tokens have
    no norm of their own), their mean and standard deviation ('gap_std', 2 D numbers: statistics pooling, Snyder
    et al., 2018, X-vectors, section 2.1), or attention by a learned probe ('map').

    Pictures may have another size than those it was built for: fixed positions are made for any grid, learned ones
    are resampled, those of the class token kept.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    patch_px: int
    class_token: bool = True
    pool: str = "cls"
    posemb: str = "learned"
    norm_eps: float = 1e-6
    activation: str = "gelu"
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    attention: str = "xla"
    dtype: Any = jnp.float32

    def setup(self):
        self.embedding = Embed(self.width, self.patch_px, self.posemb, self.dtype)
        nn.share_scope(self, self.embedding)
        if self.class_token:
            self.cls = self.param("cls", NORMAL, (1, 1, self.width))
            if self.posemb == "learned":
                self.cls_position = self.param("cls_position", NORMAL, (1, 1, self.width))
        self.stack = Stack(
            depth=self.depth, heads=self.heads, mlp_dim=self.mlp_dim, norm_eps=self.norm_eps,
            activation=self.activation, drop_path=self.drop_path, scan=self.scan, remat=self.remat,
            attention=self.attention, dtype=self.dtype,
        )  # fmt: skip
        nn.share_scope(self, self.stack)
        self.norm = nn.LayerNorm(self.norm_eps, dtype=self.dtype)
        self.fc_norm = nn.LayerNorm(self.norm_eps)
        self.map_head = MapHead(self.heads, self.mlp_dim, self.norm_eps, self.activation, self.dtype)

    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> dict[str, Array]:
        x = self.encode(self.embed(images), train)
        tokens = x[:, 1:] if self.class_token else x
        return {"features": self._pool(x, tokens).astype(jnp.float32), "tokens": tokens}

    def embed(
        self, images: Float[Array, "B H W 3"], keep: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B N D"]:
        """Patch embeddings with their positions, of all patches or of those that `keep` lists."""
        return self.embedding(images, keep)

    def encode(self, tokens: Float[Array, "B N D"], train: bool = False) -> Float[Array, "B M D"]:
        """The blocks' output after the final norm, class token first where there is one.

        With pool='gap_norm' there is no final norm here: it comes after pooling.
        """
        if self.class_token:
            # A fixed position of the class token is zero, so only a learned one is added.
            cls = self.cls + self.cls_position if self.posemb == "learned" else self.cls
            cls = jnp.broadcast_to(cls.astype(tokens.dtype), (len(tokens), 1, self.width))
            tokens = jnp.concatenate([cls, tokens], axis=1)
        x = self.stack(tokens, train)
        return x if self.pool == "gap_norm" else self.norm(x)

    def _pool(self, x: Float[Array, "B M D"], tokens: Float[Array, "B N D"]) -> Float[Array, "B F"]:
        if self.pool == "cls":
            return x[:, 0]
        if self.pool == "map":
            return self.map_head(x)
        mean = tokens.mean(axis=1, dtype=jnp.float32)
        if self.pool == "gap_std":
            variance = tokens.var(axis=1, dtype=jnp.float32)
            return jnp.concatenate([mean, jnp.sqrt(jnp.maximum(variance, MIN_VARIANCE))], axis=-1)
        return self.fc_norm(mean) if self.pool == "gap_norm" else mean


class Embed(nn.Module):
    """Patches as tokens: a linear map of each patch's pixels, plus its position.

    The map is the usual convolution with stride equal to kernel, kept as a matrix [P*P*C, D]. Only the
    patches that `keep` lists are computed.
    """

    width: int
    patch_px: int
    posemb: str
    dtype: Any

    @nn.compact
    def __call__(self, images: Array, keep: Int[Array, "B K"] | None) -> Float[Array, "B K D"]:
        h, w = patches.grid(images.shape[1], images.shape[2], self.patch_px)
        x = patches.patchify(images, self.patch_px).astype(self.dtype)
        if self.posemb == "learned":
            position = positions.resampled(self._learned(h, w), h, w)
        else:
            position = jnp.asarray(positions.fixed(self.posemb, h, w, self.width))[None]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)
            position = position[0][keep]
        return linear(x, self.width, self.dtype, "patch") + position.astype(self.dtype)

    def _learned(self, h: int, w: int) -> Float[Array, "1 N D"]:
        """The positions that there are, of whatever grid; new ones are of the grid at hand, which is square."""
        if self.has_variable("params", "position"):
            return self.get_variable("params", "position")
        if h != w:
            raise UserError(
                f"config.model.posemb='learned' is built on square pictures, not on {h} x {w} patches; use 'sincos2d'"
            )
        return self.param("position", NORMAL, (1, h * w, self.width))


class Stack(nn.Module):
    """`depth` blocks one after the other, looped or scanned, with stochastic depth.

    Which branches are dropped is drawn before the first block, so that blocks hold no randomness and scanned,
    rematerialised and looped stacks drop the same ones.
    """

    depth: int
    heads: int
    mlp_dim: int
    norm_eps: float = 1e-6
    activation: str = "gelu"
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    attention: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], train: bool) -> Float[Array, "B N D"]:
        gates = self._gates(len(x)) if train and self.drop_path else None
        block = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        settings = dict(
            heads=self.heads, mlp_dim=self.mlp_dim, norm_eps=self.norm_eps, activation=self.activation,
            attention=self.attention, dtype=self.dtype,
        )  # fmt: skip
        if self.scan:
            axes = dict(variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
            return nn.scan(block, **axes)(**settings, name=trees.STACK)(x, gates)[0]
        for i in range(self.depth):
            gate = None if gates is None else gates[i]
            x, _ = block(**settings, name=trees.block_name(i))(x, gate)
        return x

    def _gates(self, batch: int) -> Float[Array, "depth 2 B"]:
        """0 where a branch is dropped for a picture, 1/kept elsewhere; the rate grows linearly from 0."""
        rates = [self.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)]
        kept = 1.0 - jnp.asarray(rates, jnp.float32)[:, None, None]
        drawn = jax.random.bernoulli(self.make_rng("dropout"), kept, (self.depth, 2, batch))
        return drawn / kept


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the second output is what `scan` collects: nothing."""

    heads: int
    mlp_dim: int
    norm_eps: float = 1e-6
    activation: str = "gelu"
    attention: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], gates: Float[Array, "2 B"] | None):
        x = sharding.constrain(x, "batch")
        y = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm1")(x)
        y = Attention(self.heads, self.attention, self.dtype, name="attention")(y)
        x = x + _gated(y, gates, 0)
        y = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)
        return x + _gated(y, gates, 1), None


class Attention(nn.Module):
    """Multi-head self-attention with one projection to q, k and v, in that order, heads inside each."""

    heads: int
    attention: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        q, k, v = Qkv(self.heads, self.dtype, name="qkv")(x)
        y = attend(q, k, v, self.heads, self.attention)
        return linear(y, x.shape[-1], self.dtype, "out")


class Qkv(nn.Module):
    """q, k and v by one kernel [D, 3D], the three side by side, heads inside each.

    Where the mesh splits heads it is multiplied as [D, 3, heads, D / heads]: a device's piece of 3D would be
    all of q and half of k, say, and the activations would move between devices instead of the kernel. Where
    it does not, that shape would cost XLA's CPU backend seven transposes.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> tuple[Float[Array, "B N D"], ...]:
        width = x.shape[-1]
        # MAE's Xavier bound is that of the whole [D, 3D] matrix, as here; MoCo v3 takes q, k and v apart.
        kernel = self.param("kernel", XAVIER, (width, 3 * width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,)).astype(self.dtype)
        rows = x.reshape(-1, width).astype(self.dtype)  # as in `linear`
        if not sharding.splits_heads(self.heads):
            y = (rows @ kernel + bias).reshape(*x.shape[:-1], 3 * width)
            return tuple(jnp.split(y, 3, axis=-1))
        shape = (-1, 3, self.heads, width // self.heads)
        kernel, bias = (sharding.constrain(w.reshape(shape), "heads") for w in (kernel, bias))
        y = jnp.tensordot(rows, kernel, 1) + bias
        return tuple(y[:, i].reshape(x.shape) for i in range(3))


class Mlp(nn.Module):
    """Two linear maps with the activation between them."""

    mlp_dim: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y = ACTIVATIONS[self.activation](linear(x, self.mlp_dim, self.dtype, "fc1"))
        return linear(y, x.shape[-1], self.dtype, "fc2")


class MapHead(nn.Module):
    """One learned probe attends to all tokens; then x + mlp(norm(x)).

    Source: Zhai et al. 2022, scaling vision transformers; layout of timm's AttentionPoolLatent.
    """

    heads: int
    mlp_dim: int
    norm_eps: float
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        width = tokens.shape[-1]
        probe = self.param("probe", XAVIER, (1, 1, width)).astype(self.dtype)
        q = jnp.broadcast_to(linear(probe, width, self.dtype, "q"), (len(tokens), 1, width))
        k, v = jnp.split(linear(tokens, 2 * width, self.dtype, "kv"), 2, axis=-1)
        x = linear(attend(q, k, v, self.heads), width, self.dtype, "out")[:, 0]
        y = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)


def attend(
    q: Float[Array, "B T D"],
    k: Float[Array, "B S D"],
    v: Float[Array, "B S D"],
    heads: int,
    implementation: str = "xla",
) -> Float[Array, "B T D"]:
    """softmax(q k / sqrt(D / heads)) v for each head, the softmax in float32."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    if implementation == "cudnn":
        y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        return y.reshape(*y.shape[:2], -1)
    # Heads are moved before tokens once, here: left to the products, as in jax.nn.dot_product_attention, XLA
    # moves them in each product and each gradient, at up to twice the time on CPUs.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
    logits = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32)
    y = jnp.einsum("bhts,bhsd->bhtd", jax.nn.softmax(logits).astype(v.dtype), v)
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def linear(x: Float[Array, "*B D"], features: int, dtype: Any, name: str) -> Float[Array, "*B E"]:
    """A linear map of the last axis, to be called from a compact method.

    The other axes are flattened first: XLA's gradient of a kernel that is contracted over two axes makes a
    transposed copy of the activations on CPUs, 10 to 50% of the time of the layer.
    """
    y = nn.Dense(features, dtype=dtype, kernel_init=XAVIER, name=name)(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], features)


def _gated(branch: Float[Array, "B N D"], gates: Float[Array, "2 B"] | None, which: int) -> Array:
    return branch if gates is None else branch * gates[which].astype(branch.dtype)[:, None, None]


def _choose(key: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"config.model.{key}={value!r} is not known; choose from {', '.join(known)}")
