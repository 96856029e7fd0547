"""Published sets of views, to be put into `config.augment.views`.

Where the original runs Pillow's blur, which has no end and repeats the border, the kernel here goes to four
times the largest sigma (17 px) and the border is repeated too; where it runs TensorFlow or JAX, the kernel is
a tenth of the view's side and surrounded by zeros. `size_px` is `config.data.size_px` except for small crops.
"""

from typing import Any

from ml_collections import ConfigDict

from vitjax.config import view

PILLOW_BLUR = dict(blur_sigma=(0.1, 2.0), blur_px=17, blur_edge="repeat")
STRONG = dict(jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2)
WEAK = dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)
BYOL = dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2)


def simclr(strength: float = 1.0, blur: float = 0.5) -> ConfigDict:
    """SimCLR's two views of one kind; on CIFAR it has strength=0.5 and blur=0.0.

    Source: Chen et al., 2020, A Simple Framework for Contrastive Learning, appendix A, and its tf2/data_util.py.
    """
    strengths = {name: strength * STRONG[name] for name in ("brightness", "contrast", "saturation", "hue")}
    return _views(view=view(count=2, **STRONG | strengths, jitter_form="simclr", blur=blur))


def byol() -> ConfigDict:
    """BYOL's two: the first is always blurred, the second rarely, and sometimes solarised.

    Source: Grill et al., 2020, Bootstrap your own latent, appendix B, table 6.
    """
    return _pair(jitter_form="byol")


def barlow() -> ConfigDict:
    """Barlow Twins' two views: those of BYOL in torchvision's formulas.

    Source: Zbontar et al., 2021, Barlow Twins, section 2.2, and its main.py.
    """
    return _pair(**PILLOW_BLUR)


def vicreg() -> ConfigDict:
    """VICReg's two views, which are those of BYOL in torchvision's formulas.

    Source: Bardes et al., 2022, VICReg, and its augmentations.py.
    """
    return _pair(**PILLOW_BLUR)


def moco_v3(crop_area: tuple[float, float] = (0.08, 1.0)) -> ConfigDict:
    """MoCo v3's two views, those of BYOL in torchvision's formulas; its ResNets take crops of (0.2, 1).

    Source: Chen, Xie and He, 2021, An Empirical Study of Training Self-Supervised Vision Transformers; main_moco.py.
    """
    return _pair(crop_area=crop_area, **PILLOW_BLUR)


def moco_v2() -> ConfigDict:
    """Two views of one kind, of MoCo v2 and of SimSiam.

    Source: Chen et al., 2020, Improved Baselines with Momentum Contrastive Learning; Chen and He, 2021, SimSiam.
    """
    return _views(view=view(count=2, crop_area=(0.2, 1.0), **WEAK, blur=0.5, **PILLOW_BLUR))


def swav(local_count: int = 6, local_px: int = 96) -> ConfigDict:
    """SwAV's two large crops and six small ones.

    Source: Caron et al., 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, appendix A.
    """
    settings = dict(**STRONG, blur=0.5, **PILLOW_BLUR)
    large = view(count=2, crop_area=(0.14, 1.0), **settings)
    small = view(count=local_count, size_px=local_px, crop_area=(0.05, 0.14), **settings)
    return _views(**{"global": large, "local": small})


def dino(
    global_area: tuple[float, float] = (0.4, 1.0), local_area: tuple[float, float] = (0.05, 0.4)
) -> ConfigDict:
    """DINO's two large crops, of which the first is always blurred, and eight small ones.

    Those are the areas of its ViTs; its ResNet-50 has (0.14, 1) and (0.05, 0.14).

    Source: Caron et al., 2021, Emerging Properties in Self-Supervised Vision Transformers, and its main_dino.py.
    """
    settings = BYOL | PILLOW_BLUR
    return _views(
        global1=view(crop_area=global_area, blur=1.0, **settings),
        global2=view(crop_area=global_area, blur=0.1, solarise=0.2, **settings),
        local=view(count=8, size_px=96, crop_area=local_area, blur=0.5, **settings),
    )


def solo_symmetric() -> ConfigDict:
    """Two views of one kind at 32 px, of solo-learn's SimCLR and SwAV on CIFAR.

    Source: da Costa et al., 2022, solo-learn, scripts/pretrain/cifar/augmentations/symmetric.yaml.
    """
    return _views(view=view(count=2, **STRONG, blur=0.5, **PILLOW_BLUR))


def solo_symmetric_weak() -> ConfigDict:
    """The same with weaker colours, of solo-learn's SimSiam on CIFAR.

    Source: scripts/pretrain/cifar/augmentations/symmetric_weak.yaml of solo-learn.
    """
    return _views(view=view(count=2, **WEAK, blur=0.5, **PILLOW_BLUR))


def solo_asymmetric() -> ConfigDict:
    """Two views at 32 px without blur, the second sometimes solarised, of solo-learn's BYOL and others on CIFAR.

    Source: scripts/pretrain/cifar/augmentations/asymmetric.yaml of solo-learn.
    """
    return _views(view1=view(**BYOL), view2=view(**BYOL, solarise=0.2))


def solo_vicreg() -> ConfigDict:
    """Two views of one kind at 32 px, seldom solarised, of solo-learn's VICReg on CIFAR.

    Source: scripts/pretrain/cifar/augmentations/vicreg.yaml of solo-learn.
    """
    return _views(view=view(count=2, crop_area=(0.2, 1.0), **BYOL, solarise=0.1))


def _pair(**settings: Any) -> ConfigDict:
    """BYOL's asymmetric views."""
    first = view(**BYOL, blur=1.0, **settings)
    return _views(view1=first, view2=view(**BYOL, blur=0.1, solarise=0.2, **settings))


def _views(**entries: ConfigDict) -> ConfigDict:
    views = ConfigDict()
    views.update(entries)
    return views
