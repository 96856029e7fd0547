"""SimSiam on CIFAR-10 with a ResNet-18: solo-learn's recipe.

Command:   python -m vitjax.main --config=configs/cifar10_simsiam.py --config.data.path=CIFAR10 \
               --workdir=runs/cifar10_simsiam
           CIFAR10 holds parquet files train-*.parquet and test-*.parquet with columns image and label
Hardware:  one GPU
Expected:  90.5% by its online linear classifier after 1000 epochs (solo-learn's table)
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
    c.augment.views = policies.solo_symmetric_weak()

    c.model.name = "resnet"
    c.model.update(dict(depth=18, width=64, stem="cifar", zero_init_residual=False))
    c.objective.name = "simsiam"
    c.objective.stop_gradient = True
    c.objective.projector = published_heads.simsiam_projector()
    c.objective.predictor = published_heads.simsiam_predictor()

    c.optim.name = "sgd"
    c.optim.base_lr, c.optim.base_batch = 0.5, 256
    c.optim.start_lr, c.optim.warmup_epochs = 3e-5, 10.0
    c.optim.weight_decay, c.optim.decay_vectors = 1e-5, True
    c.optim.constant_rate = ("^predictor/",)

    c.checkpoint.every_steps = 2000
    c.probe.field = "label"
    c.evals.knn = knn_eval()
    c.evals.linear = linear_eval()
    return form(c, arg)
