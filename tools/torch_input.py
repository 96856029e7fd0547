"""PyTorch's side of the input bench: DataLoader, Pillow, and what torchvision's transforms do with it."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import forms
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from vitjax.data.decode import crop_box


def loader(
    path: Path, values: Any, area: tuple[float, float], aspect: tuple[float, float], views: int
) -> Iterator[Any]:
    """Batches without end of `views` crops of each picture, made by `values.workers` processes."""
    pictures = Pictures(path, Crop(values.size_px, area, aspect), views)
    return iter(
        DataLoader(
            pictures,
            batch_size=values.batch_size,
            # Without end, or each epoch would begin with idle workers.
            sampler=RandomSampler(pictures, replacement=True, num_samples=2**40),
            num_workers=values.workers,
        )
    )


class Crop(NamedTuple):
    """RandomResizedCrop with Pillow's antialiased resize, flipped half of the time; uint8 [S, S, 3].

    ToTensor and Normalize, which cost the host far more, are left to the device as they are in vitjax.
    """

    size_px: int
    area: tuple[float, float]
    aspect: tuple[float, float]

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        rng = np.random.default_rng()
        top, left, height, width = crop_box(rng, picture.height, picture.width, self.area, self.aspect)
        part = picture.crop((left, top, left + width, top + height))
        part = part.resize((self.size_px, self.size_px), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(part))


def open_picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


class Pictures(Dataset):
    """The pictures of a folder, each decoded once for all its views."""

    def __init__(self, path: Path, transform: Crop, views: int):
        self._files, self._transform, self._views = forms.files(path), transform, views

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        picture = open_picture(self._files[index].read_bytes())
        return [self._transform(picture) for _ in range(self._views)]
