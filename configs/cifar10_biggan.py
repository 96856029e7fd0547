"""BigGAN on CIFAR-10: the setting of the authors' PyTorch code for 32 px, one GPU.

Command:   python -m vitjax.main --config=configs/cifar10_biggan.py --config.data.path=CIFAR10 --workdir=runs/biggan32
           CIFAR10 holds parquet files train-*.parquet and test-*.parquet with columns image and label
Hardware:  one GPU, 500 passes of the discriminator over the data; 50,000 steps give most of it. On 8 devices a batch
           of 192 or 224: a round has four moves, each of which all devices share
Expected:  Inception score 9.22, FID 14.73 (Brock et al. 2019, appendix C.2)
Obtained:  not yet run
"""

from ml_collections import ConfigDict

from vitjax.config import base_config, fid_eval, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 200  # 50 real pictures for each of four steps of the discriminator
    c.total_epochs = 500.0

    c.data.size_px = 32
    c.data.canvas_px = 32
    c.data.eval_crop_fraction = 1.0
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.augment.crop_area = (1.0, 1.0)
    c.augment.crop_aspect = (1.0, 1.0)
    c.augment.flip = 0.0

    c.model.name = "biggan"
    c.model.update(dict(ch=64, attention_px=0, shared_width=0, hierarchical=False, init="normal"))
    c.objective.name = "biggan"
    c.objective.label = "label"
    c.objective.update(dict(z_dim=128, loss="hinge", orthogonal=0.0, truncation=0.0))
    c.objective.update(dict(discriminator_steps=4, discriminator_rate=1.0, r1=0.0, diff_augment=()))
    c.objective.update(dict(ema_decay=0.9999, ema_start=1000, ema_buffers=True))
    c.objective.update(dict(standing_passes=16, standing_batch=64))

    c.optim.base_lr = 2e-4
    c.optim.base_batch = 0
    c.optim.schedule = "constant"
    c.optim.weight_decay = 0.0
    c.optim.b1, c.optim.b2 = 0.0, 0.999

    c.init = ConfigDict(dict(generator="", discriminator=""))
    c.checkpoint.every_steps = 1000
    c.alarms.won = 5.0  # with the hinge loss the discriminator's gradient is the larger one
    c.log.pictures_every_steps = 1000
    c.evals.knn = knn_eval()
    c.evals.linear = linear_eval()
    c.evals.fid = fid_eval()  # of pixels, which tells progress and ranks nothing; the papers have inception:FILE
    return form(c, arg)
