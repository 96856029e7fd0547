"""The heads of joint-embedding methods as their authors published them, as settings for configs.

A head is one MLP, `config.mlp_head`, or DINO's, `config.dino_head`; `models.heads.make` builds it. The width that
goes in is that of the features, or of the projector for a predictor, and is in no setting. The functions of
`cifar_*` are the heads of solo-learn's CIFAR-10 recipes, for the 512 features of a ResNet-18.

Sources, beside the papers: google-research/simclr, deepmind-research/byol, facebookresearch/swav, simsiam, moco-v3,
dino, barlowtwins and vicreg; vturrisi/solo-learn for CIFAR-10.
"""

import ml_collections

from vitjax.config import dino_head, mlp_head

Settings = ml_collections.ConfigDict


def simclr_projector(width: int = 2048) -> Settings:
    """SimCLR's, two layers; the paper's hidden width is that of the features. The last norm has no centre."""
    return mlp_head(widths=(width, 128), out_norm="no_centre", kernel_init="normal", init_std=0.01)


def simclr_v2_projector(width: int = 2048) -> Settings:
    """SimCLR's with three layers: Chen et al. 2020, 'Big self-supervised models', and the default of the code."""
    return mlp_head(widths=(width, width, 128), out_norm="no_centre", kernel_init="normal", init_std=0.01)


def byol_projector() -> Settings:
    """BYOL's; its predictor is the same."""
    return mlp_head(widths=(4096, 256), hidden_bias=True, kernel_init="fan_in_normal")


def byol_predictor() -> Settings:
    """BYOL's: the projector again, on 256 numbers."""
    return byol_projector()


def swav_projector() -> Settings:
    """SwAV's, before `models.heads.Prototypes` of 3000."""
    return mlp_head(widths=(2048, 128), hidden_bias=True, out_bias=True)


def simsiam_projector() -> Settings:
    """SimSiam's. The last linear map has no bias: the code has one, and keeps it at its first value."""
    return mlp_head(widths=(2048, 2048, 2048), out_norm="no_affine")


def simsiam_predictor() -> Settings:
    """SimSiam's bottleneck."""
    return mlp_head(widths=(512, 2048), out_bias=True)


def moco_v3_projector() -> Settings:
    """MoCo v3's for a ViT."""
    return mlp_head(widths=(4096, 4096, 256), out_norm="no_affine")


def moco_v3_predictor() -> Settings:
    """MoCo v3's for a ViT."""
    return mlp_head(widths=(4096, 256), out_norm="no_affine")


def moco_v3_resnet_projector() -> Settings:
    """MoCo v3's for a ResNet, also solo-learn's for CIFAR-10: two layers."""
    return mlp_head(widths=(4096, 256), out_norm="no_affine")


def moco_v3_resnet_predictor() -> Settings:
    """MoCo v3's for a ResNet, also solo-learn's for CIFAR-10: without a last norm."""
    return mlp_head(widths=(4096, 256))


def dino_projector(prototypes: int = 65_536, norm_last_layer: bool = True) -> Settings:
    """DINO's; the published ViT-S learned the last layer's gains (`norm_last_layer` off), the ViT-B did not."""
    return dino_head(widths=(2048, 2048, 256), prototypes=prototypes, norm_last_layer=norm_last_layer)


def barlow_projector() -> Settings:
    """Barlow Twins'; the norm of its output belongs to the loss."""
    return mlp_head(widths=(8192, 8192, 8192))


def vicreg_projector() -> Settings:
    """VICReg's: that of Barlow Twins with biases before the norms."""
    return mlp_head(widths=(8192, 8192, 8192), hidden_bias=True)


def cifar_simclr_projector() -> Settings:
    """Without batch norm."""
    return mlp_head(widths=(2048, 256), hidden_norm=False, hidden_bias=True, out_bias=True)


def cifar_byol_projector() -> Settings:
    """Also its predictor."""
    return mlp_head(widths=(4096, 256), hidden_bias=True, out_bias=True)


def cifar_byol_predictor() -> Settings:
    """The projector again, on 256 numbers."""
    return cifar_byol_projector()


def cifar_swav_projector() -> Settings:
    """Before `models.heads.Prototypes` of 3000."""
    return mlp_head(widths=(2048, 128), hidden_bias=True, out_bias=True)


def cifar_barlow_projector() -> Settings:
    """Also that of VICReg."""
    return mlp_head(widths=(2048, 2048, 2048), hidden_bias=True, out_bias=True)


def cifar_vicreg_projector() -> Settings:
    """That of Barlow Twins."""
    return cifar_barlow_projector()


def cifar_dino_projector() -> Settings:
    """DINO's with 4096 prototypes."""
    return dino_projector(prototypes=4096)
