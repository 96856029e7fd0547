"""Augmentation on the device, jitted with the step: uint8 canvases in, float views out.

The host decodes a picture once, however many views of it a method wants. A view is a random crop, perhaps
mirrored, its colours jittered, perhaps made grey, blurred and solarised, in this order, and normalised. What a
picture is spared is not branched around: its numbers are those that change nothing, and a whole batch takes
one way through the compiled program.

Every draw for a picture comes from the key of its row in the global batch, the number of the view and the
number of the operation (`draws`), so that micro-batches, devices and hosts change nothing. Crops have their
channels last, as canvases and networks do; colours and blur work on planes [B, 3, H, W], whose long rows
processors like.
"""

from vitjax.augment.crop import (
    METHODS,
    Box,
    center_crop,
    random_flip,
    random_resized_crop,
    resize_weights,
    resized_px,
)
from vitjax.augment.draws import row_keys
from vitjax.augment.views import (
    eval_pictures,
    eval_view,
    multi_view,
    normalize,
    to_uint8,
    train_view,
    view_names,
    view_sizes,
)

__all__ = [
    "METHODS",
    "Box",
    "center_crop",
    "eval_pictures",
    "eval_view",
    "multi_view",
    "normalize",
    "random_flip",
    "random_resized_crop",
    "resize_weights",
    "resized_px",
    "row_keys",
    "to_uint8",
    "train_view",
    "view_names",
    "view_sizes",
]
