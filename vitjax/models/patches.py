"""Pictures as sequences of square patches."""

from jaxtyping import Array, Float

from vitjax.errors import UserError


def patchify(images: Float[Array, "B H W C"], patch_px: int) -> Float[Array, "B N PPC"]:
    """Each patch's pixels as one row, patches row-major, pixels in the order (row, column, channel).

    Raises:
      UserError: `patch_px` does not divide the picture.
    """
    h, w = grid(images.shape[1], images.shape[2], patch_px)
    x = images.reshape(-1, h, patch_px, w, patch_px, images.shape[3])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h * w, patch_px * patch_px * images.shape[3])


def unpatchify(
    patches: Float[Array, "B N PPC"], height: int, width: int, patch_px: int
) -> Float[Array, "B H W C"]:
    """The pictures of `height` x `width` pixels whose `patchify` is `patches`."""
    h, w = grid(height, width, patch_px)
    x = patches.reshape(-1, h, w, patch_px, patch_px, patches.shape[2] // patch_px**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def grid(height: int, width: int, patch_px: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
      UserError: `patch_px` does not divide `height` and `width`.
    """
    if patch_px < 1 or height % patch_px or width % patch_px:
        size = height if height == width else (height, width)
        fits = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
        near = sorted(sorted(fits, key=lambda p: (abs(p - patch_px), p))[:2])
        offer = " or ".join(str(p) for p in near)
        raise UserError(f"config.model.patch_px={patch_px} must divide data.size_px={size}; try {offer}")
    return height // patch_px, width // patch_px
