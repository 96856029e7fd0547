"""DCGAN at 64 px: Radford et al. 2016, section 4, without labels, for the 25 epochs of pytorch/examples.

Command:   python -m vitjax.main --config=configs/dcgan_64.py --config.data.path=PICTURES --workdir=runs/dcgan_64
           PICTURES are of one kind: faces, bedrooms. FID in the end: --config.evals.fid.features=inception:FILE
Hardware:  one accelerator, a few hours for a million pictures
Expected:  pictures; the paper gives no figure at 64 px. Its 82.8% on CIFAR-10 (table 1) are of a linear SVM on the
           discriminator of a DCGAN of ImageNet at 32 px: --config.data.size_px=32, then config.evals.linear
Obtained:  not yet run
"""

from ml_collections import ConfigDict

from vitjax.config import base_config, fid_eval, form


def get_config(arg=""):
    c = base_config()
    c.batch_size = 128
    c.total_epochs = 25.0

    c.data.size_px = 64
    c.data.eval_crop_fraction = 1.0
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.augment.crop_area = (1.0, 1.0)
    c.augment.crop_aspect = (1.0, 1.0)
    c.augment.flip = 0.0

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
    c.evals.fid = fid_eval()  # of pixels, which tells progress and ranks nothing
    return form(c, arg)
