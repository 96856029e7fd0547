"""Captioned pictures in plain colours, and runs of `own_methods.towers` on them."""

import numpy as np
from PIL import Image

from vitjax import experiment
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked, base_config
from vitjax.data import sources


def pictures(folder, colours):
    """A folder of {name: (red, green, blue, captions)} as PNG files with text files beside them."""
    for name, (*colour, captions) in colours.items():
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), tuple(colour)).save(file)
        file.with_suffix(".txt").write_text("\n".join(captions))
    return folder


def config_of(folder, **data):
    config = base_config()
    config.total_steps, config.batch_size = 2, 8
    config.data.update(
        dict(path=str(folder), size_px=16, canvas_px=16, fields=("text",), text_length=32) | data
    )
    config.objective.name = "own_methods.towers"
    return config


def run_of(workdir, config):
    """A run's directory with a checkpoint of step 1; nothing was trained."""
    tracked = Tracked(config)
    built = experiment.prepare(tracked, sources.open_source(config.data, config.data.split), workdir)
    experiment.write_config(built)
    state = experiment.fresh(built, 0)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save(1, state._replace(step=np.int32(1) + state.step))
    return workdir
