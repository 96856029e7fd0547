"""Barlow Twins with a ResNet-50 on ImageNet, from its pictures alone.

Command:   python -m vitjax.main --config=configs/barlow_r50.py --config.data.path=PICTURES --workdir=runs/barlow_r50
Hardware:  32 V100s for 124 hours
Expected:  73.5% linear after 1000 epochs (facebookresearch/barlowtwins)
Obtained:  not yet run
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 2048
    c.total_epochs = 1000.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.augment.views = policies.barlow()

    c.model.name = "resnet"
    c.model.update(dict(depth=50, width=64, stem="imagenet", zero_init_residual=True))
    c.objective.name = "barlow_twins"
    c.objective.update(dict(off_diagonal=0.0051, scale=1.0))
    c.objective.projector = published_heads.barlow_projector()

    c.optim.name, c.optim.form = "lars", "byol"
    c.optim.base_lr, c.optim.base_batch = 0.2, 256
    c.optim.end_lr = 1.6e-3  # a thousandth of the peak
    c.optim.warmup_epochs = 10.0
    c.optim.rate_scales = (("(bias|scale)$", 0.024),)  # biases and norms begin from 0.0048
    c.optim.weight_decay = 1e-6
    c.optim.trust_coefficient = 1e-3

    c.checkpoint.every_steps = 2000
    c.evals.knn = knn_eval(eval_split="validation")
    c.evals.linear = linear_eval(eval_split="validation")
    return form(c, arg)
