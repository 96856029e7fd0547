"""Runs of `own_methods.stateful`: 13 steps an epoch."""

from vitjax.config import base_config


def get_config(arg=""):
    c = base_config()
    c.batch_size = 16
    c.total_steps = 40

    c.data.builtin = "scenes"
    c.data.train_examples = 13 * c.batch_size
    c.data.size_px = c.data.canvas_px = 16
    c.data.workers = 0

    c.objective.name = "own_methods.stateful"
    c.objective.update(dict(width=64, queue=48, temperature=0.2, dropout=0.1, ema=0.9, learning_rate=1e-3))

    c.log.every_steps = 1
    return c
