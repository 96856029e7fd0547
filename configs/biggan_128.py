"""BigGAN at 128 px on ImageNet-1k: Brock et al. 2019, table 1 and appendix C.

Command:   python -m vitjax.main --config=configs/biggan_128.py --config.data.path=IMAGENET --workdir=runs/biggan_128 \
               --config.evals.fid.features=inception:FILE
Hardware:  sized for a TPU v3-128 (24 to 48 hours in the paper); 8 GPUs take two weeks with config.accum=8
Expected:  FID 8.7, Inception score 98.8 without truncation (table 1)
Obtained:  not yet run
Note:      the paper's rates (5e-5, and 2e-4 for the discriminator) and two steps of the discriminator; its code in
           PyTorch has 1e-4, 4e-4 and one step at a batch of 2048
"""

from ml_collections import ConfigDict

from vitjax.config import base_config, fid_eval, form


def get_config(arg=""):
    c = base_config()
    c.batch_size = 4096  # 2048 real pictures for each of two steps of the discriminator
    c.total_steps = 250_000

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 128
    c.data.crop = "host"
    c.data.eval_crop_fraction = 1.0
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.augment.crop_area = (1.0, 1.0)
    c.augment.crop_aspect = (1.0, 1.0)
    c.augment.flip = 0.0

    c.model.name = "biggan"
    c.model.update(dict(ch=96, attention_px=64, shared_width=128, hierarchical=True, init="orthogonal"))
    c.objective.name = "biggan"
    c.objective.label = "label"
    c.objective.update(dict(z_dim=120, loss="hinge", orthogonal=1e-4, truncation=0.0))
    c.objective.update(dict(discriminator_steps=2, discriminator_rate=4.0, r1=0.0, diff_augment=()))
    c.objective.update(dict(ema_decay=0.9999, ema_start=20_000, ema_buffers=True))
    c.objective.update(dict(standing_passes=16, standing_batch=256))

    c.optim.base_lr = 5e-5
    c.optim.base_batch = 0
    c.optim.schedule = "constant"
    c.optim.weight_decay = 0.0
    c.optim.b1, c.optim.b2, c.optim.eps = 0.0, 0.999, 1e-6

    c.init = ConfigDict(dict(generator="", discriminator=""))
    c.checkpoint.every_steps = 1000
    c.alarms.won = 5.0  # with the hinge loss the discriminator's gradient is the larger one
    c.log.pictures_every_steps = 1000
    c.evals.fid = fid_eval(samples=50_000)  # of pixels, if none are named, which ranks nothing
    return form(c, arg)
