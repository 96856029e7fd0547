"""CLIP with a ResNet-50 of its own kind on pictures with captions.

Command:   python -m vitjax.main --config=configs/clip_r50.py --config.data.path='shards/train-*.tar' \
               --config.data.tokenizer=clip:bpe_simple_vocab_16e6.txt.gz --workdir=runs/clip_r50
Hardware:  256 V100s
Expected:  59.6% zero-shot top-1 on ImageNet after 32 epochs of OpenAI's 400 million pairs (Radford et al. 2021)
Obtained:  not yet run
Note:      the batch of 32,768 fits anywhere by config.embed_chunks and config.loss_chunks, at the cost of a second
           forward pass
"""

from vitjax.config import base_config, form
from vitjax.models.published import PUBLISHED

SIZE = PUBLISHED["RN50"]


def get_config(arg=""):
    c = base_config()
    c.batch_size = 32_768
    c.total_epochs = 32.0
    c.embed_chunks = 1  # of more, each has batch statistics of its own
    c.loss_chunks = 64

    c.data.fields = ("text",)
    c.data.tokenizer = "clip:bpe_simple_vocab_16e6.txt.gz"  # a file that OpenAI and open_clip publish
    c.data.update(SIZE["data"])
    c.augment.crop_area, c.augment.flip = (0.9, 1.0), 0.0

    c.model.update(SIZE["model"])
    c.text = SIZE["text"] | dict(scan=True, remat=False, attention="xla")
    c.towers = SIZE["towers"]
    c.objective.name = "clip"
    c.objective.update(dict(max_scale=100.0, multi_positive=False))

    c.optim.base_lr, c.optim.base_batch = 5e-4, 0
    c.optim.warmup_steps = 2000
    c.optim.weight_decay = 0.2
    c.optim.b2, c.optim.eps = 0.999, 1e-8

    c.checkpoint.every_steps = 2000
    return form(c, arg)
