"""DINO: a student that sees small crops predicts what its teacher makes of the large ones, as classes nobody named.

Source: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, section 3 and algorithm 1;
facebookresearch/dino.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vitjax import health, joint_embedding, models, schedules
from vitjax.losses.distillation import dino, moved_center
from vitjax.models import heads
from vitjax.objective import Objective, Run

TAUGHT = 2  # views that the teacher sees: the large ones, which come first


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds student_temperature, teacher_temperature, its start and the epochs of
    its warm-up, center_momentum, momentum and projector.

    The centre that is taken off the teacher's scores moves after use. The export is the teacher, as published.

    Raises:
      UserError: a number makes no sense.
    """
    settings = config.objective
    student_temperature = joint_embedding.positive("student_temperature", settings.student_temperature)
    warmup_epochs = joint_embedding.at_least("teacher_temperature_epochs", settings.teacher_temperature_epochs, 0)
    teacher_temperature = schedules.linear_warmup(
        joint_embedding.positive("teacher_temperature_start", settings.teacher_temperature_start),
        joint_embedding.positive("teacher_temperature", settings.teacher_temperature),
        round(warmup_epochs * run.steps_per_epoch),
    )
    center_momentum = joint_embedding.share("center_momentum", settings.center_momentum, 0.9)
    joint_embedding.count_views(config)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype),
        projector=heads.make(settings.projector, run.dtype),
        joint=True,
    )
    teacher = joint_embedding.Teacher(network, settings.momentum, run)
    chance = math.log(settings.projector.prototypes)

    def embed(params: Any, extra: Any, batch: Any, key: Array, step: Array):
        out, new = joint_embedding.forward(network, joint_embedding.trained(params, extra), batch, key)
        target, extra = teacher.forward({**extra, **new}, batch, key, views=TAUGHT)
        return {**out, "target": target["projected"]}, extra

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        student, taught, valid = embedded["projected"], embedded["target"], batch["valid"]
        warmth = teacher_temperature(step)
        value = dino(student, taught, extra["center"], student_temperature, warmth, valid=valid)
        classes = jax.nn.softmax((taught - extra["center"]).astype(jnp.float32) / warmth)
        metrics = health.assignments(classes.reshape(-1, classes.shape[-1]))
        metrics["health/agreement"] = health.agreement(student[:, 0], taught[:, 0])
        extra = {**extra, "center": moved_center(extra["center"], taught, center_momentum, valid=valid)}
        return value, joint_embedding.output(extra, embedded, batch, chance, metrics)

    def start(variables: Any) -> Any:
        return {"teacher": teacher.start(variables), "center": jnp.zeros((settings.projector.prototypes,))}

    return joint_embedding.objective(
        config,
        run,
        network,
        loss,
        embed=embed,
        start=start,
        after=lambda params, extra, step: (params, teacher.follow(params, extra, step)),
        exported=lambda state: state.extra["teacher"],
    )
