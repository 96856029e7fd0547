"""BYOL with a ResNet-50 on ImageNet, from its pictures alone.

Command:   python -m vitjax.main --config=configs/byol_r50.py --config.data.path=PICTURES --workdir=runs/byol_r50
Hardware:  512 TPU v3 cores for 8 hours
Expected:  74.3% linear after 1000 epochs (Grill et al. 2020, table 1a)
Obtained:  not yet run
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 4096
    c.total_epochs = 1000.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.augment.views = policies.byol()

    c.model.name = "resnet"
    c.model.update(dict(depth=50, width=64, stem="imagenet", zero_init_residual=True))
    c.objective.name = "byol"
    c.objective.momentum = 0.996
    c.objective.projector = published_heads.byol_projector()
    c.objective.predictor = published_heads.byol_predictor()

    c.optim.name, c.optim.form = "lars", "byol"
    c.optim.base_lr, c.optim.base_batch = 0.2, 256
    c.optim.warmup_epochs = 10.0
    c.optim.weight_decay = 1.5e-6
    c.optim.trust_coefficient = 1e-3

    c.checkpoint.every_steps = 2000
    c.evals.knn = knn_eval(eval_split="validation")
    c.evals.linear = linear_eval(eval_split="validation")
    return form(c, arg)
