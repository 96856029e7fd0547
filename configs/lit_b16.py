"""LiT: a text tower learns to read for a ViT-B/16 that is trained already, and locked.

Command:   python -m vitjax.main --config=configs/lit_b16.py --config.data.path='shards/train-*.tar' \
               --config.init.backbone=runs/mae_vitb --config.data.tokenizer=clip:bpe_simple_vocab_16e6.txt.gz \
               --workdir=runs/lit_b16
           config.init.backbone is a run or an export, whose backbone the section `model` must be that of; another
           activation, norm_eps, number of heads, mean or std is refused
Hardware:  32 TPU v4 chips
Expected:  72.1% zero-shot top-1 on ImageNet with a tower trained on ImageNet-21k (big_vision)
Obtained:  not yet run
"""

from vitjax.config import base_config, form
from vitjax.models.published import PUBLISHED
from vitjax.models.vit import VARIANTS

SIZE = PUBLISHED["ViT-B/16"]


def get_config(arg=""):
    c = base_config()
    c.batch_size = 16_384
    c.total_epochs = 10.0
    c.embed_chunks = 1
    c.loss_chunks = 32

    c.data.fields = ("text",)
    c.data.tokenizer = "clip:bpe_simple_vocab_16e6.txt.gz"  # a file that OpenAI and open_clip publish
    c.data.size_px, c.data.text_length = 224, 16
    c.augment.crop_area, c.augment.flip = (0.9, 1.0), 0.0

    c.model.name = "vit"
    c.model.update(VARIANTS["B"], patch_px=16)
    c.model.update(dict(class_token=True, pool="cls", posemb="sincos2d", norm_eps=1e-6, activation="gelu"))
    c.model.update(dict(drop_path=0.0, scan=True, remat=False, attention="xla"))
    c.text = SIZE["text"] | dict(width=768, heads=12, mlp_dim=3072, scan=True, remat=False, attention="xla")
    # The picture's features are the space that texts are put into.
    c.towers = dict(embed_dim=768, image_projection="none", text_projection="linear", scale=10.0, bias=None)
    c.objective.name = "lit"
    c.objective.update(dict(max_scale=100.0, multi_positive=False))

    c.optim.base_lr, c.optim.base_batch = 1e-3, 0
    c.optim.warmup_steps = 10_000
    c.optim.weight_decay = 0.1
    c.optim.frozen = ("^backbone/",)
    c.optim.b2 = 0.95
    c.optim.clip_norm = 1.0

    c.checkpoint.every_steps = 2000
    return form(c, arg)
