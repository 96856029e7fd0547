"""SimCLR with a ResNet-50 on ImageNet, from its pictures alone.

Command:   python -m vitjax.main --config=configs/simclr_r50.py --config.data.path=PICTURES --workdir=runs/simclr_r50
Hardware:  128 TPU v3 cores, 1.5 hours for 100 epochs
Expected:  69.3% linear after 1000 epochs, 64.5% after 100 (Chen et al. 2020; google-research/simclr)
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
    c.data.mean, c.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # colours in 0..1, as published
    c.augment.views = policies.simclr()

    c.model.name = "resnet"
    c.model.update(dict(depth=50, width=64, stem="imagenet", zero_init_residual=True))
    c.objective.name = "simclr"
    c.objective.temperature = 0.1
    c.objective.projector = published_heads.simclr_projector()

    c.optim.name, c.optim.form = "lars", "simclr"
    c.optim.base_lr, c.optim.base_batch = 0.3, 256
    c.optim.warmup_epochs = 10.0
    c.optim.weight_decay = 1e-6
    c.optim.trust_coefficient = 1e-3

    c.checkpoint.every_steps = 2000
    c.evals.knn = knn_eval(eval_split="validation")
    c.evals.linear = linear_eval(eval_split="validation")
    return form(c, arg)
