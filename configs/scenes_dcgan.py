"""A small DCGAN on drawn scenes: a generator that can be watched learning on two CPU cores.

Command:   python -m vitjax.main --config=configs/scenes_dcgan.py --workdir=runs/scenes_dcgan
Hardware:  2 CPU cores, at most 30 minutes
Data:      'scenes', drawn by vitjax itself; nothing is downloaded
Expected:  samples in which a person recognises the scenes, and no alarm; one with a discriminator that learns 100
           times as fast (--config.objective.discriminator_rate=100)
Obtained:  coloured objects on textures in 25 minutes beside another run; FID (5,000 pictures each) of the features of
           scenes_clip 35.2 at initialisation, 3.3 at the end, precision 0.67, recall 0.86; of 8 x 8 pixels 5.71 and
           0.53; no alarm. At 100 times the rate, after 6,000 steps: 16.4, 0.81, 0.34, pixels 0.57, alarm 'won'
"""

from ml_collections import ConfigDict

from vitjax.config import base_config, fid_eval, form


def get_config(arg=""):
    c = base_config()
    c.batch_size = 64
    c.total_steps = 20_000

    c.data.builtin = "scenes"
    c.data.size_px = 32
    c.data.canvas_px = 32
    c.data.eval_crop_fraction = 1.0
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.augment.crop_area = (1.0, 1.0)
    c.augment.crop_aspect = (1.0, 1.0)

    c.model.name = "dcgan"
    c.model.width = 32
    c.objective.name = "dcgan"
    c.objective.update(dict(z_dim=64, loss="non_saturating", truncation=0.0))
    c.objective.update(dict(discriminator_steps=1, discriminator_rate=1.0, r1=0.0, diff_augment=()))
    c.objective.update(dict(ema_decay=0.999, ema_start=500, ema_buffers=True))
    c.objective.update(dict(standing_passes=16, standing_batch=64))

    c.optim.base_lr = 2e-4
    c.optim.base_batch = 0
    c.optim.schedule = "constant"
    c.optim.weight_decay = 0.0
    c.optim.b1, c.optim.b2 = 0.5, 0.999

    c.init = ConfigDict(dict(generator="", discriminator=""))
    c.checkpoint.every_steps = 1000
    c.log.pictures_every_steps = 1000
    c.evals.fid = fid_eval(samples=5000, eval_examples=5000)  # of pixels, see vitjax.feature_networks
    return form(c, arg)
