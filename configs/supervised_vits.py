"""A supervised ViT-S/16 on labelled pictures, one folder a class: Beyer et al. 2022, 'Better plain ViT baselines'.

Command:   python -m vitjax.main --config=configs/supervised_vits.py --config.data.path=PICTURES --workdir=runs/vits
Hardware:  a TPU v3-8 or 8 A100s, about 7 hours for 90 epochs of ImageNet-1k
Expected:  76.5% top-1 with RandAugment and mixup, which this config does not have
Obtained:  not yet run in full
"""

from vitjax.config import accuracy_eval, base_config, form
from vitjax.models.vit import VARIANTS


def get_config(arg=""):
    c = base_config()
    c.batch_size = 1024
    c.total_epochs = 90.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.data.crop = "host"
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)

    c.augment.crop_area = (0.05, 1.0)

    c.model.name = "vit"
    c.model.update(VARIANTS["S"], patch_px=16)
    c.model.update(dict(class_token=False, pool="gap", posemb="sincos2d", norm_eps=1e-6, activation="gelu"))
    c.model.update(dict(drop_path=0.0, scan=False, remat=False, attention="xla"))
    c.objective.name = "supervised"
    c.objective.label = "label"

    c.optim.base_lr = 1e-3
    c.optim.base_batch = 1024
    c.optim.warmup_steps = 10_000
    c.optim.weight_decay = 0.1
    c.optim.b2 = 0.999
    c.optim.clip_norm = 1.0

    c.checkpoint.every_steps = 2000
    c.evals.accuracy = accuracy_eval(eval_split="validation")
    return form(c, arg)
