"""Digits: scikit-learn's 1,797 scans of real handwriting, 8 x 8 grey, in a fixed split."""

import numpy as np
from jaxtyping import Int, UInt8

from vitjax.data.splits import NoSuchSplit

TRAIN_EXAMPLES = 1437  # four fifths
SPLITS = ("train", "test")


class DigitsSource:
    """Handwritten digits as RGB pictures, size_px a side; the label is the digit."""

    def __init__(self, split: str, size_px: int):
        if split not in SPLITS:
            raise NoSuchSplit(f"the split {split!r} is not in the built-in digits, which have train and test")
        self._split, self._size_px = split, size_px
        self._images, self._labels = _load(split, size_px)
        self.class_names = {"label": tuple(str(d) for d in range(10))}

    def __repr__(self) -> str:
        return f"the built-in digits ({self._split})"

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> dict:
        return {"image": self._images[i], "label": int(self._labels[i])}

    def gather(
        self, indices: Int[np.ndarray, " B"], fields: tuple[str, ...] = ("label",)
    ) -> dict[str, np.ndarray]:
        """Many records at once, stacked."""
        return {"image": self._images[indices], **{field: self._labels[indices] for field in fields}}

    def name(self, i: int) -> str:
        """What messages call record i."""
        return f"digits/{self._split}/{i}"


def _load(split: str, size_px: int) -> tuple[UInt8[np.ndarray, "B S S 3"], Int[np.ndarray, " B"]]:
    """Pictures and labels of a split: a fixed permutation, since the set keeps no writers to split by."""
    from sklearn.datasets import load_digits  # takes a second to import, and most runs never ask for it

    digits = load_digits()
    order = np.random.Generator(np.random.Philox(0)).permutation(len(digits.target))
    rows = order[:TRAIN_EXAMPLES] if split == "train" else order[TRAIN_EXAMPLES:]
    grey = _enlarge(digits.images[rows] * (255 / 16), size_px)
    images = np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return images, digits.target[rows].astype(np.int32)


def _enlarge(grey: np.ndarray, size_px: int) -> np.ndarray:
    """Linear interpolation between pixel centres, [B, 8, 8] to [B, S, S]."""
    side = grey.shape[-1]
    at = (np.arange(size_px) + 0.5) * side / size_px - 0.5
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(side)), 0, None)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("yh,bhw,xw->byx", weights, grey, weights, optimize=True)
