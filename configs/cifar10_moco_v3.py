"""MoCo v3 on CIFAR-10 with a ResNet-18: solo-learn's recipe.

Command:   python -m vitjax.main --config=configs/cifar10_moco_v3.py --config.data.path=CIFAR10 \
               --workdir=runs/cifar10_moco_v3
           CIFAR10 holds parquet files train-*.parquet and test-*.parquet with columns image and label
Hardware:  one GPU
Expected:  93.1% by its online linear classifier after 1000 epochs (solo-learn's table)
Obtained:  not yet run
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 256
    c.total_epochs = 1000.0

    c.data.size_px = 32
    c.data.canvas_px = 32
    c.data.eval_crop_fraction = 1.0
    c.data.mean, c.data.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    c.augment.views = policies.solo_asymmetric()

    c.model.name = "resnet"
    c.model.update(dict(depth=18, width=64, stem="cifar", zero_init_residual=False))
    c.objective.name = "moco_v3"
    c.objective.update(dict(temperature=0.2, momentum=0.99))
    c.objective.projector = published_heads.moco_v3_resnet_projector()
    c.objective.predictor = published_heads.moco_v3_resnet_predictor()

    c.optim.name, c.optim.form = "lars", "solo"
    c.optim.base_lr, c.optim.base_batch = 0.3, 256
    c.optim.start_lr, c.optim.warmup_epochs = 3e-5, 10.0
    c.optim.weight_decay = 1e-6
    c.optim.trust_coefficient = 0.02

    c.checkpoint.every_steps = 2000
    c.probe.field = "label"
    c.evals.knn = knn_eval()
    c.evals.linear = linear_eval()
    return form(c, arg)
