"""What losses of embeddings share: unit vectors, means over the rows that count, and blocks of anchors.

Everything is float32, whatever the dtype of the embeddings. `valid` says which rows count; the others (the padding of
a last batch, pictures that could not be read) may hold anything, NaN included, and a loss is that of the batch
without them. Without a single row that counts it is 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax import gradients

Tree = Any
Valid = Bool[Array, " B"] | None

EXCLUDED = -1e9  # a logit that adds nothing to a softmax; infinity would make NaN where all are excluded


def products(subscripts: str, *x: Float[Array, "..."]) -> Float[Array, "..."]:
    """einsum in full float32.

    Accelerators multiply float32 in fewer bits by default: cosines off by 1e-3, times a logit scale of 100.
    """
    return jnp.einsum(subscripts, *x, precision=jax.lax.Precision.HIGHEST)


def which_count(x: Float[Array, "B ..."], valid: Valid) -> Bool[Array, " B"]:
    """`valid`, or all rows of `x` where it is None."""
    return jnp.ones(x.shape[0], bool) if valid is None else valid


def counted(x: Float[Array, "B ..."], valid: Bool[Array, " B"]) -> Float[Array, "B ..."]:
    """`x` in float32, with zeros in the rows that do not count, so that nothing in them comes through, not even NaN."""
    mask = valid.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(mask, x.astype(jnp.float32), 0.0)


def mean_of(x: Float[Array, "B ..."], valid: Bool[Array, " B"]) -> Float[Array, "..."]:
    """The mean of the rows that count."""
    return jnp.sum(counted(x, valid), axis=0) / jnp.maximum(jnp.sum(valid), 1)


def in_blocks(of_rows: Callable[[Tree], Float[Array, " b"]], rows: Tree, chunks: int) -> Float[Array, " B"]:
    """`of_rows(rows)`, a number for each row of the tree, worked out for B / chunks rows at a time.

    What `of_rows` makes on the way (rows of a similarity matrix) exists for one block at a time, in the backward
    pass too, where it is made again. A block takes every `chunks`-th row, a few of each device. Over many devices the
    compiler leaves the columns of the matrix where they are and sends the rows of each block to all of them, so that
    every embedding travels once a pass. A ring of keys would move as much, and losses would have to know of devices.

    Raises:
      UserError: `chunks`, which is config.loss_chunks, does not divide the rows.
    """
    if chunks == 1:
        return of_rows(rows)
    cut = gradients.parts(rows, chunks, f"config.loss_chunks={chunks}")
    # Unlike a batch of pictures, embeddings are small enough to be copied, and then the gradient of a block is
    # written where it belongs; one of `gradients.part` would be added to a whole array of zeros.
    blocks = jax.tree.map(lambda x: x.swapaxes(0, 1), cut)
    again = jax.checkpoint(of_rows, prevent_cse=False)
    _, numbers = jax.lax.scan(lambda carry, block: (carry, again(block)), None, blocks)
    return gradients.joined(numbers)
