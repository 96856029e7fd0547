"""SigLIP with a ViT-B/16 on pictures with captions: the sigmoid loss of Zhai et al. 2023.

Command:   python -m vitjax.main --config=configs/siglip_vitb16.py --config.data.path='shards/train-*.tar' \
               --config.data.tokenizer=sentencepiece:c4_en.model --workdir=runs/siglip_vitb16
Hardware:  32 TPU v4 chips
Expected:  nothing published on open data; 76% zero-shot top-1 on ImageNet from WebLI
Obtained:  not yet run
"""

from vitjax.config import base_config, form
from vitjax.models.published import PUBLISHED

SIZE = PUBLISHED["SigLIP-B/16"]


def get_config(arg=""):
    c = base_config()
    c.batch_size = 32_768
    c.total_epochs = 10.0
    c.embed_chunks = 1
    c.loss_chunks = 64

    c.data.fields = ("text",)
    c.data.tokenizer = "sentencepiece:c4_en.model"  # a SentencePiece model of 32,000 pieces
    c.data.update(SIZE["data"])
    c.augment.crop_area, c.augment.flip = (0.9, 1.0), 0.0

    c.model.update(SIZE["model"])
    c.model.update(dict(scan=True, remat=False, attention="xla"))
    c.text = SIZE["text"] | dict(scan=True, remat=False, attention="xla")
    c.towers = SIZE["towers"]
    c.objective.name = "siglip"
    c.objective.update(dict(max_scale=0.0, multi_positive=False))

    c.optim.base_lr, c.optim.base_batch = 1e-3, 0
    c.optim.warmup_steps = 10_000
    c.optim.weight_decay = 0.1  # a decay of 1e-4 there, which is not multiplied by the rate of 1e-3
    c.optim.b2 = 0.95
    c.optim.clip_norm = 1.0

    c.checkpoint.every_steps = 2000
    return form(c, arg)
