"""SimSiam with a ResNet-50 on ImageNet, from its pictures alone.

Command:   python -m vitjax.main --config=configs/simsiam_r50.py --config.data.path=PICTURES \
               --workdir=runs/simsiam_r50
Hardware:  8 V100s
Expected:  68.1% linear after 100 epochs (facebookresearch/simsiam)
Obtained:  not yet run
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 512
    c.total_epochs = 100.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.data.resize = "bilinear"
    c.augment.views = policies.moco_v2()

    c.model.name = "resnet"
    c.model.update(dict(depth=50, width=64, stem="imagenet", zero_init_residual=True))
    c.objective.name = "simsiam"
    c.objective.stop_gradient = True
    c.objective.projector = published_heads.simsiam_projector()
    c.objective.predictor = published_heads.simsiam_predictor()

    c.optim.name = "sgd"
    c.optim.base_lr, c.optim.base_batch = 0.05, 256
    c.optim.weight_decay, c.optim.decay_vectors = 1e-4, True
    c.optim.constant_rate = ("^predictor/",)

    c.checkpoint.every_steps = 2000
    c.evals.knn = knn_eval(eval_split="validation")
    c.evals.linear = linear_eval(eval_split="validation")
    return form(c, arg)
