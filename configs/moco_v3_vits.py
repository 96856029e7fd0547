"""MoCo v3 with a ViT-S of 12 heads on ImageNet, from its pictures alone.

Command:   python -m vitjax.main --config=configs/moco_v3_vits.py --config.data.path=PICTURES \
               --workdir=runs/moco_v3_vits
Hardware:  32 V100s
Expected:  73.2% linear after 300 epochs (facebookresearch/moco-v3)
Obtained:  not yet run
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval, linear_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 4096
    c.total_epochs = 300.0

    c.data.tfds = "imagenet2012"  # where no path is given
    c.data.size_px = 224
    c.augment.views = policies.moco_v3()

    c.model.name = "vit"
    c.model.update(dict(width=384, depth=12, heads=12, mlp_dim=1536, patch_px=16))
    c.model.update(dict(class_token=True, pool="cls", posemb="sincos2d_row_first", norm_eps=1e-6, activation="gelu"))
    c.model.update(dict(drop_path=0.0, scan=True, remat=False, attention="xla"))
    c.objective.name = "moco_v3"
    c.objective.update(dict(temperature=0.2, momentum=0.99))
    c.objective.projector = published_heads.moco_v3_projector()
    c.objective.predictor = published_heads.moco_v3_predictor()

    c.optim.base_lr, c.optim.base_batch = 1.5e-4, 256
    c.optim.warmup_epochs = 40.0
    c.optim.weight_decay = 0.1
    c.optim.b2 = 0.999
    c.optim.frozen = ("^backbone/patch/",)  # a patch projection that stays random is what keeps training stable

    c.checkpoint.every_steps = 2000
    c.evals.knn = knn_eval(eval_split="validation")
    c.evals.linear = linear_eval(eval_split="validation")
    return form(c, arg)
