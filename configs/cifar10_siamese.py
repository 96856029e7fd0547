"""A Siamese network with a margin on CIFAR-10: pairs of views of a picture, or of pictures of a class.

Command:   python -m vitjax.main --config=configs/cifar10_siamese.py --config.data.path=CIFAR10 \
               --workdir=runs/cifar10_siamese
           CIFAR10 holds parquet files train-*.parquet and test-*.parquet with columns image and label
Hardware:  one GPU
Expected:  nothing published; with config.objective.label='' no labels are used
Obtained:  not yet run
"""

from vitjax import policies
from vitjax.config import base_config, form, knn_eval, linear_eval, mlp_head


def get_config(arg=""):
    c = base_config()
    c.batch_size = 256
    c.total_epochs = 200.0

    c.data.size_px = 32
    c.data.canvas_px = 32
    c.data.eval_crop_fraction = 1.0
    c.data.mean, c.data.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    c.augment.views = policies.solo_asymmetric()

    c.model.name = "resnet"
    c.model.update(dict(depth=18, width=64, stem="cifar", zero_init_residual=True))
    c.objective.name = "siamese"
    c.objective.margin = 1.0
    c.objective.label = ""  # 'label': likes are pictures of a class
    c.objective.projector = mlp_head(widths=(512, 128), hidden_bias=True, out_bias=True)

    c.optim.name = "sgd"
    c.optim.base_lr, c.optim.base_batch = 0.05, 256
    c.optim.warmup_epochs = 10.0
    c.optim.weight_decay = 5e-4

    c.checkpoint.every_steps = 2000
    c.probe.field = "label"
    c.evals.knn = knn_eval()
    c.evals.linear = linear_eval()
    return form(c, arg)
