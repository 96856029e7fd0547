"""Tiny pairs of towers, as the golden models have them: 16 wide, 2 deep, pictures of 16 px, texts of 8 tokens."""

from ml_collections import ConfigDict

from vitjax.models import two_towers
from vitjax.models.published import PUBLISHED

PUBLISHED_AS = {"clip": "ViT-B/32", "siglip": "SigLIP-B/16", "resnet": "RN50"}


def config(family: str, **changes) -> ConfigDict:
    """The sections data, model, text and towers of a tiny 'clip', 'siglip' or 'resnet' (of 64 px)."""
    c = ConfigDict(PUBLISHED[PUBLISHED_AS[family]])
    small = dict(width=16, depth=2, heads=2, mlp_dim=32)
    speed = dict(scan=False, remat=False, attention="xla")
    c.data.update(size_px=64 if family == "resnet" else 16, text_length=8)
    if family == "resnet":
        c.model.update(blocks=(1, 1, 1, 1), width=4, heads=2)
    else:
        c.model.update(small, **speed, patch_px=4)
    c.text.update(small, **speed, vocab_size=64, eos_id=1 if family == "siglip" else 63)
    c.towers.embed_dim = 16 if family == "siglip" else 12
    for section, values in changes.items():
        c[section].update(values)
    return c


def build(family: str, **changes) -> two_towers.TwoTowers:
    c = config(family, **changes)
    return two_towers.make(c.model, c.text, c.towers)
