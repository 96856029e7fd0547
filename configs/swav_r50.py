"""SwAV with a ResNet-50 and eight crops on ImageNet, from its pictures alone.

Command:   python -m vitjax.main --config=configs/swav_r50.py --config.data.path=PICTURES --workdir=runs/swav_r50
Hardware:  64 V100s, 6 hours and a quarter for 100 epochs
Expected:  75.3% linear after 800 epochs, 72.1% after 100 (facebookresearch/swav)
Obtained:  not yet run
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 4096
    c.total_epochs = 800.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.data.resize = "bilinear"
    c.data.std = (0.228, 0.224, 0.225)  # the red one is a slip of the original that its weights depend on
    c.augment.views = policies.swav()

    c.model.name = "resnet"
    c.model.update(dict(depth=50, width=64, stem="imagenet", zero_init_residual=False))
    c.objective.name = "swav"
    c.objective.update(dict(temperature=0.1, epsilon=0.05, sinkhorn_iterations=3))
    # A small batch needs a queue: 256 pictures, queue=3840 from epoch 15 on.
    c.objective.update(dict(prototypes=3000, queue=0, queue_epoch=15.0))
    c.objective.projector = published_heads.swav_projector()

    c.optim.name, c.optim.form = "lars", "larc"
    c.optim.base_lr, c.optim.base_batch = 0.3, 256
    c.optim.start_lr, c.optim.end_lr, c.optim.warmup_epochs = 0.3, 0.0048, 10.0
    c.optim.weight_decay = 1e-6
    c.optim.trust_coefficient = 1e-3
    c.optim.held, c.optim.held_steps = ("^prototypes/",), 313

    c.checkpoint.every_steps = 2000
    c.evals.knn = knn_eval(eval_split="validation")
    c.evals.linear = linear_eval(eval_split="validation")
    return form(c, arg)
