"""DCGAN at 64 px, as in Radford et al. 2016, section 4: no labels, 25 epochs.

Command:   python -m vitjax.main --config=configs/dcgan_64.py --config.data.path=PICTURES --workdir=runs/dcgan_64
           PICTURES are of one kind (faces, bedrooms), or ImageNet, whose discriminator the paper's table 1 judges
Hardware:  one accelerator, a few hours for a million pictures
Expected:  82.8% on CIFAR-10 with a linear SVM on the features of a discriminator of ImageNet at 32 px (table 1)
Obtained:  not yet run
"""

from ml_collections import ConfigDict

from vitjax.config import base_config, form


def get_config(arg=""):
    c = base_config()
    c.batch_size = 128
    c.total_epochs = 25.0

    c.data.size_px = 64
    c.data.eval_crop_fraction = 1.0
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.augment.crop_area = (1.0, 1.0)
    c.augment.crop_aspect = (1.0, 1.0)

    c.model.name = "dcgan"
    c.model.width = 64
    c.objective.name = "dcgan"
    c.objective.update(dict(z_dim=100, loss="non_saturating", truncation=0.0))
    c.objective.update(dict(discriminator_steps=1, discriminator_rate=1.0, r1=0.0, diff_augment=()))
    c.objective.update(dict(ema_decay=0.0, ema_start=0, ema_buffers=True))
    c.objective.update(dict(standing_passes=0, standing_batch=64))

    c.optim.base_lr = 2e-4
    c.optim.base_batch = 0
    c.optim.schedule = "constant"
    c.optim.weight_decay = 0.0
    c.optim.b1, c.optim.b2 = 0.5, 0.999

    c.init = ConfigDict(dict(generator="", discriminator=""))
    c.checkpoint.every_steps = 2000
    c.log.pictures_every_steps = 1000
    return form(c, arg)
