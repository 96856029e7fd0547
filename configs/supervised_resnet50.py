"""A supervised ResNet-50 (v1.5) on labelled pictures, one folder a class: Goyal et al. 2017, table 1.

Command:   python -m vitjax.main --config=configs/supervised_resnet50.py --config.data.path=PICTURES \
               --workdir=runs/resnet50
Hardware:  8 A100s or a TPU v3-8; the paper took one hour on 256 P100s
Expected:  76.4% top-1 on ImageNet-1k after 90 epochs, in the paper with steps of 1/10 in place of the cosine
Obtained:  not yet run in full
"""

from vitjax.config import accuracy_eval, base_config, form


def get_config(arg=""):
    c = base_config()
    c.batch_size = 1024
    c.total_epochs = 90.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.data.crop = "host"
    c.data.resize = "bilinear"

    c.augment.crop_area = (0.08, 1.0)
    c.augment.flip = 0.5

    c.model.name = "resnet"
    c.model.update(dict(depth=50, width=64, stem="imagenet", zero_init_residual=True))
    c.objective.name = "supervised"
    c.objective.label = "label"

    c.optim.name = "sgd"
    c.optim.base_lr = 0.1
    c.optim.base_batch = 256
    c.optim.warmup_epochs = 5.0
    c.optim.momentum = 0.9
    c.optim.weight_decay = 1e-4  # never on batch norm and biases

    c.checkpoint.every_steps = 2000
    c.evals.accuracy = accuracy_eval(eval_split="validation")
    return form(c, arg)
