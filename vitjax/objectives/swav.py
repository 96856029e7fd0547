"""SwAV: from one view's embedding predict the cluster that another view of the picture was assigned to.

Source: Caron et al. 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, section 3 and
appendix A; facebookresearch/swav.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import health, joint_embedding, models
from vitjax.errors import UserError
from vitjax.losses.clustering import sinkhorn, swapped_prediction
from vitjax.models import heads
from vitjax.objective import Objective, Run
from vitjax.vectors import normalised

ASSIGNED = 2  # views that are assigned to prototypes: the large ones, which come first


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds temperature, epsilon, sinkhorn_iterations, prototypes, queue,
    queue_epoch and projector.

    Codes come from the first two views and are predicted from every other view. A batch smaller than the number of
    prototypes is assigned together with the last `queue` embeddings of each of the two views. The queue fills from
    `queue_epoch` on and is used once it is full; 0 is no queue. How long prototypes are held still is
    config.optim.held_epochs.

    Raises:
      UserError: a number makes no sense, or the queue is no multiple of the batch.
    """
    settings = config.objective
    temperature = joint_embedding.positive("temperature", settings.temperature)
    epsilon = joint_embedding.positive("epsilon", settings.epsilon)
    iterations = joint_embedding.at_least("sinkhorn_iterations", settings.sinkhorn_iterations, 1)
    count = joint_embedding.at_least("prototypes", settings.prototypes, 2)
    length = joint_embedding.at_least("queue", settings.queue, 0)
    queue_epoch = joint_embedding.at_least("queue_epoch", settings.queue_epoch, 0)
    if length % run.batch_size:
        raise UserError(
            f"config.objective.queue={length} must be a multiple of config.batch_size={run.batch_size}, or 0; try "
            f"{max(1, round(length / run.batch_size)) * run.batch_size}"
        )
    queue_step = round(queue_epoch * run.steps_per_epoch)
    joint_embedding.count_views(config)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype),
        projector=heads.make(settings.projector, run.dtype),
        joint=True,
    )
    prototypes = heads.Prototypes(count)

    def own(key: Array, width: int) -> Any:
        fresh = prototypes.init(key, jnp.zeros((1, width)))["params"]
        return {"prototypes": heads.unit_prototypes(fresh)}

    def start(variables: Any) -> Any:
        if not length:
            return {}
        width = variables["params"]["prototypes"]["kernel"].shape[0]
        return {"queue": jnp.zeros((length, ASSIGNED, width)), "queued": jnp.zeros((), jnp.int32)}

    def codes_of(view: int, params: Any, extra: Any, scores: Float[Array, "B V K"], valid: Array):
        """The assignment of one view of the batch, the queue's rows helping to balance it."""
        mine = jax.lax.stop_gradient(scores[:, view])
        if not length:
            return sinkhorn(mine, epsilon, iterations, valid=valid)
        past = prototypes.apply({"params": jax.lax.stop_gradient(params["prototypes"])}, extra["queue"][:, view])
        full = jnp.broadcast_to(extra["queued"] >= length, (length,))
        codes = sinkhorn(
            jnp.concatenate([mine, past]), epsilon, iterations, valid=jnp.concatenate([valid, full])
        )
        return codes[: len(mine)]

    def queued(extra: Any, embeddings: Float[Array, "B V E"], step: Array) -> Any:
        """`extra` with this batch at the front of the queue, once that has begun."""
        if not length:
            return extra
        newest = jax.lax.stop_gradient(embeddings[:, :ASSIGNED])
        queue = jnp.concatenate([newest, extra["queue"][: length - len(newest)]])
        begun = step >= queue_step
        return {
            **extra,
            "queue": jnp.where(begun, queue, extra["queue"]),
            "queued": jnp.where(begun, jnp.minimum(extra["queued"] + len(newest), length), 0),
        }

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        valid, embeddings = batch["valid"], normalised(embedded["projected"])
        scores = prototypes.apply({"params": params["prototypes"]}, embeddings)
        codes = jnp.stack([codes_of(a, params, extra, scores, valid) for a in range(ASSIGNED)], axis=1)
        value = swapped_prediction(scores, codes, temperature, valid=valid)
        extra = queued(extra, embeddings, step)
        return value, joint_embedding.output(
            extra, embedded, batch, math.log(count), health.assignments(codes.reshape(-1, count))
        )

    def after(params: Any, extra: Any, step: Array):
        return {**params, "prototypes": heads.unit_prototypes(params["prototypes"])}, extra

    return joint_embedding.objective(config, run, network, loss, own=own, start=start, after=after)
