"""Losses of pictures and their texts.

`same` numbers the captions of a batch: equal numbers, equal captions. Sets whose captions are made of class names, or
large batches of any, hold a caption more than once, and without `same` a picture is then told by `siglip` that its own
text does not match wherever another picture has it too. The softmax of `clip` gives equal texts equal shares anyway:
there `same` matters only where the embeddings of equal texts differ.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.losses.contrastive import softmax_contrast
from vitjax.losses.embeddings import Valid, counted, in_blocks, mean_of, products, which_count
from vitjax.vectors import normalised

Scalar = Float[Array, ""] | float
Same = Int[Array, " B"] | None


def clip(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Scalar,
    *,
    valid: Valid = None,
    same: Same = None,
    chunks: int = 1,
) -> Float[Array, ""]:
    """The mean of the cross-entropies from pictures to texts and from texts to pictures. Chance is ln B.

    Normalises the embeddings. With `chunks` B / chunks rows of the similarity matrix exist at a time: first of
    pictures, then of texts.

    Args:
      scale: what cosines are multiplied with: the exponential of the learned parameter.
      same: with it, all texts equal to a picture's own are positives with equal shares of the target.

    Raises:
      UserError: `chunks` does not divide the batch.
    Source: Radford et al. 2021, figure 3.
    """
    valid = which_count(image, valid)
    image, text = (normalised(counted(x, valid)) for x in (image, text))
    to_text = softmax_contrast(image, text, scale, valid, same=same, chunks=chunks)
    to_image = softmax_contrast(text, image, scale, valid, same=same, chunks=chunks)
    return (mean_of(to_text, valid) + mean_of(to_image, valid)) / 2


def siglip(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Scalar,
    bias: Scalar,
    *,
    valid: Valid = None,
    same: Same = None,
    chunks: int = 1,
) -> Float[Array, ""]:
    """-log p(match or not) of each picture with each text: the sum over texts, the mean over pictures.

    Normalises the embeddings. Chance, one logit for all pairs, is near 1 + ln B at best; a first loss near 0.69 B
    means that the bias does not start at -10.

    Args:
      scale: what cosines are multiplied with: the exponential of the learned parameter.
      bias: added to all logits; the learned parameter itself.
      same: with it, all texts equal to a picture's own match it.

    Raises:
      UserError: `chunks` does not divide the batch.
    Source: Zhai et al. 2023, equation 2 and algorithm 1.
    """
    valid = which_count(image, valid)
    image, text = (normalised(counted(x, valid)) for x in (image, text))
    same = jnp.arange(image.shape[0]) if same is None else same

    def of_rows(block: tuple[Float[Array, "b E"], Int[Array, " b"]]) -> Float[Array, " b"]:
        pictures, numbers = block
        logits = products("ae,be->ab", pictures, text) + bias
        signed = jnp.where(numbers[:, None] == same, logits, -logits)
        return jnp.sum(jnp.where(valid, jax.nn.softplus(-signed), 0.0), axis=1)

    return mean_of(in_blocks(of_rows, (image * scale, same), chunks), valid)
