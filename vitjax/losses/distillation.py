"""Self-distillation with no labels: the teacher's view of a global crop, predicted from the other crops."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.losses.clustering import across_views
from vitjax.losses.embeddings import Valid, counted, mean_of, which_count


def dino(
    student: Float[Array, "B V K"],
    teacher: Float[Array, "B A K"],
    center: Float[Array, " K"],
    student_temperature: Float[Array, ""] | float,
    teacher_temperature: Float[Array, ""] | float,
    *,
    valid: Valid = None,
) -> Float[Array, ""]:
    """Cross-entropy of the teacher's softmax with the student's on every other view, averaged.

    The teacher sees the first A views, the global crops. Neither it nor `center` gets a gradient. `center` is the one
    from before this batch: move it afterwards. Chance is ln K.

    Source: Caron et al. 2021, algorithm 1; facebookresearch/dino main_dino.py.
    """
    valid = which_count(student, valid)
    centred = counted(jax.lax.stop_gradient(teacher), valid) - jax.lax.stop_gradient(center)
    targets = jax.nn.softmax(centred / teacher_temperature)
    log_p = jax.nn.log_softmax(counted(student, valid) / student_temperature)
    return across_views(log_p, targets, valid)


def moved_center(
    center: Float[Array, " K"],
    teacher: Float[Array, "B A K"],
    momentum: float,
    *,
    valid: Valid = None,
) -> Float[Array, " K"]:
    """`center` moved towards the mean of the teacher's raw outputs, over pictures and global crops.

    Without a picture that counts it stays.

    Source: Caron et al. 2021, equation 4.
    """
    valid = which_count(teacher, valid)
    mean = jnp.mean(mean_of(jax.lax.stop_gradient(teacher), valid), axis=0)
    return jnp.where(jnp.any(valid), momentum * center + (1.0 - momentum) * mean, center)
