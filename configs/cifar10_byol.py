"""BYOL on CIFAR-10 with a ResNet-18: solo-learn's recipe.

Command:   python -m vitjax.main --config=configs/cifar10_byol.py --config.data.path=CIFAR10 \
               --workdir=runs/cifar10_byol
           CIFAR10 holds parquet files train-*.parquet and test-*.parquet with columns image and label
Hardware:  one GPU; in the form --config=configs/cifar10_byol.py:cpu two CPU cores, 30 minutes
Expected:  92.6% by its online linear classifier after 1000 epochs (solo-learn's table)
Obtained:  not yet run to its end; kNN 54.3% after 2,000 steps (10 epochs) with --config.total_epochs=54
           --config.optim.warmup_epochs=6, on all 10,000 test pictures of a JPEG-compressed copy; one NVIDIA
           H200, jax 0.11.2; residual blocks began as their shortcuts (--config.model.zero_init_residual=True)
           in the form :cpu kNN 46.0% and linear probe 48.9% after its 2,540 steps (random network 24.5% and 28.1%,
           pixels 36.3% and 41.5%)
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
    c.objective.name = "byol"
    c.objective.momentum = 0.99
    c.objective.projector = published_heads.cifar_byol_projector()
    c.objective.predictor = published_heads.cifar_byol_predictor()

    c.optim.name, c.optim.form = "lars", "solo"
    c.optim.base_lr, c.optim.base_batch = 1.0, 256
    c.optim.start_lr, c.optim.warmup_epochs = 3e-5, 10.0
    c.optim.weight_decay = 1e-5
    c.optim.trust_coefficient = 0.02

    c.checkpoint.every_steps = 2000
    c.probe.field = "label"
    c.evals.knn = knn_eval()
    c.evals.linear = linear_eval()
    return form(c, arg, cpu=for_two_cores)


def for_two_cores(c):
    """A quarter of the width on a quarter of the pixels, Adam, and crops that are not too small for a short run."""
    c.total_epochs = 13.0
    for view in c.augment.views.values():
        view.crop_area = (0.2, 1.0)
    c.model.update(dict(width=16, stem="cifar_half", zero_init_residual=True))
    c.objective.momentum = 0.97  # the paper's for its shortest runs
    c.objective.projector.widths = c.objective.predictor.widths = (1024, 128)
    c.optim.name = "adamw"
    c.optim.base_lr, c.optim.base_batch = 2e-3, 256
    c.optim.start_lr, c.optim.warmup_epochs = 0.0, 1.0
    c.optim.weight_decay = 1e-4
    c.checkpoint.every_steps = 500
