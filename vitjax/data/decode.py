"""From the bytes of a picture file to pixels: exact, bounded, and without surprises of format.

Whatever the file holds, the result is uint8 RGB, upright: EXIF rotation applied, grey repeated,
palettes looked up, CMYK converted, transparency laid on white, 16 bits brought to 8, and the first
frame of an animation. What cannot be decoded in full raises `Undecodable`; half a picture is never
returned.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

try:
    import simplejpeg
except ImportError:  # OpenCV decodes JPEG as well, but does not say what was damaged
    simplejpeg = None

cv2.setNumThreads(0)  # the pipeline has its own threads, one picture each
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # on damaged EXIF, at each picture
Image.MAX_IMAGE_PIXELS = None  # `max_pixels` decides, also where it is more than Pillow's own limit

MAX_PIXELS = 178_956_970  # where Pillow by itself refuses: half a gigabyte as RGB
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # each further parser is a further way in for an attacker
_ORIENTATION, _UPRIGHT = 0x0112, 1  # the EXIF tag, and its value where nothing is to be done
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's code by orientation; 5 to 8 are transposed first
_APP1, _SCAN, _END = 0xE1, 0xDA, b"\xff\xd9"  # markers of JPEG
_PNG_BITS, _PNG_COLOUR = 24, 25  # where the header, always a PNG's first chunk, has them


class Undecodable(ValueError):
    """The record holds no picture that can be decoded; the message says why."""


def decode(
    data: bytes | UInt8[np.ndarray, "H W 3"], max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture, upright, in RGB. An array is returned as it is.

    Raises:
      Undecodable: not a picture of a known format, damaged, or of more than `max_pixels` pixels by its
        header (which is read before memory is taken).
    """
    if isinstance(data, np.ndarray):
        return _checked_array(data)
    if data[:3] == b"\xff\xd8\xff":
        decode_jpeg = _by_opencv if simplejpeg is None else _by_simplejpeg
        picture = decode_jpeg(data, max_pixels)
        if picture is not None:
            return _turned(picture, _jpeg_orientation(data))
    return _by_pillow(data, max_pixels)


def decode_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "H W"]:
    """The number at each pixel of a PNG: the grey value as it is stored, or the index into the palette.

    Never a colour, and never turned: what EXIF says belongs to the picture.

    Raises:
      Undecodable: damaged, too large, no PNG, one of colours or of grey with alpha, or of numbers over 255.
    """
    with _opened(data, max_pixels, ("PNG",)) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise Undecodable(f"a mask of mode {image.mode}: class numbers are grey or a palette's")
        numbers = np.asarray(image)
    bits, is_grey = data[_PNG_BITS], data[_PNG_COLOUR] == 0
    if is_grey and bits in (2, 4):  # Pillow stretches these to 0..255
        numbers = numbers // (255 // (2**bits - 1))
    if numbers.max() > 255:
        raise Undecodable(f"the mask holds the number {numbers.max()}; class numbers end at 255")
    return numbers.astype(np.uint8)


def fit(picture: UInt8[np.ndarray, "H W 3"], canvas_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The whole picture, scaled down so that its longer side is at most `canvas_px`; never enlarged."""
    height, width = picture.shape[:2]
    scale = canvas_px / max(height, width)
    if scale >= 1:
        return picture
    return resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def resize(
    picture: UInt8[np.ndarray, "H W 3"], height: int, width: int, method: str = "bilinear"
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at `height` x `width`, antialiased where it shrinks; `method` is for where it grows.

    A Gaussian of sigma 0.41 sqrt(scale^2 - 1) and then linear interpolation: 46 to 52 dB from Pillow's
    antialiased result on photographs, at half of its time. Linear interpolation alone would alias.
    """
    if picture.shape[:2] == (height, width):
        return picture
    picture = _averaged(picture, height, width)
    shrink = [picture.shape[0] / height, picture.shape[1] / width]
    sigma_y, sigma_x = (0.41 * math.sqrt(max(s * s - 1, 0)) for s in shrink)
    if max(sigma_y, sigma_x) > 0.3:  # below, the Gaussian's neighbours weigh less than 1/255
        # OpenCV takes a sigma of 0 for 'choose one': a tiny one means no blur along that side.
        picture = cv2.GaussianBlur(picture, (0, 0), sigmaX=max(sigma_x, 1e-3), sigmaY=max(sigma_y, 1e-3))
    how = cv2.INTER_CUBIC if max(shrink) <= 1 and method == "bicubic" else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=how)


def _averaged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture brought down to three times its final size by averages where it is over six times it.

    A Gaussian's cost grows with the full size times the scale; 1.3 dB are the price.
    """
    near = [3 * n if side > 6 * n else side for side, n in zip(picture.shape, (height, width))]
    if tuple(near) == picture.shape[:2]:
        return picture
    return cv2.resize(picture, (near[1], near[0]), interpolation=cv2.INTER_AREA)


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop: a share of the area, and an aspect (width / height)
    drawn uniformly in its logarithm.

    Ten draws; where none fits into the picture, the largest central crop of an allowed aspect.

    Source: Szegedy et al. 2015, as in torchvision's RandomResizedCrop.
    """
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h, endpoint=True), rng.integers(0, width - w, endpoint=True)
            return int(top), int(left), h, w
    ratio = min(max(width / height, aspect[0]), aspect[1])
    h, w = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def random_crop(
    picture: UInt8[np.ndarray, "H W 3"],
    rng: np.random.Generator,
    size_px: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    method: str,
) -> UInt8[np.ndarray, "S S 3"]:
    """A random crop at `size_px` x `size_px`."""
    top, left, height, width = crop_box(rng, *picture.shape[:2], area, aspect)
    return resize(picture[top : top + height, left : left + width], size_px, size_px, method)


def _checked_array(picture: np.ndarray) -> np.ndarray:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise Undecodable(f"an array of {picture.dtype} {picture.shape} is not uint8 [H, W, 3]")
    return picture


def _by_simplejpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """A grey or YCbCr JPEG; None leaves it to Pillow."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK"):
            return None
        _refuse_bomb(height, width, max_pixels)
        return simplejpeg.decode_jpeg(data)
    except Undecodable:
        raise
    except ValueError as error:
        # Pillow would fill what is lost with grey. Also what does no harm, such as stray bytes, comes here.
        if any(damage in str(error) for damage in ("remature end", "bad Huffman code")):
            raise Undecodable(str(error)) from None
        return None


def _by_opencv(data: bytes, max_pixels: int) -> np.ndarray | None:
    """The same where simplejpeg is missing."""
    with _opened(data, max_pixels, _FORMATS) as image:
        # Some releases return the upper half of a file that was cut.
        if image.mode not in ("L", "RGB") or not data.rstrip(b"\0").endswith(_END):
            return None
        how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), how)
        return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


def _by_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    with _opened(data, max_pixels, _FORMATS) as image:
        image.load()
        return _turned(np.asarray(_rgb(image)), _orientation(image))


@contextmanager
def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The image, its header read; whatever goes wrong with it, also in the `with` block, is Undecodable."""
    if not data:
        raise Undecodable("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _refuse_bomb(image.height, image.width, max_pixels)
            yield image
    except Undecodable:
        raise
    except Image.UnidentifiedImageError:
        raise Undecodable(f"not a {', '.join(formats)} file: it begins with {data[:16]!r}") from None
    except Exception as error:  # Pillow's parsers raise SyntaxError, struct.error, OSError and others
        raise Undecodable(f"{type(error).__name__}: {error}") from error


def _jpeg_orientation(data: bytes) -> int:
    """As `_orientation`; Pillow, slow for small pictures, is asked only where there is something to read."""
    if not any(block[:4] == b"Exif" or b"tiff:Orientation" in block for block in _app1(data)):
        return _UPRIGHT
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _orientation(image)
    except Exception:
        return _UPRIGHT


def _app1(data: bytes) -> Iterator[bytes]:
    """The blocks of a JPEG that hold EXIF or XMP; they lie before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        if data[at + 1] == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _APP1:
            yield data[at + 4 : end]
        at = end


def _orientation(image: Image.Image) -> int:
    """By EXIF or XMP, 1 where they are damaged: that says nothing about the pixels."""
    try:
        return image.getexif().get(_ORIENTATION, _UPRIGHT)
    except Exception:  # a parser in Python of hostile bytes raises anything
        return _UPRIGHT


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        picture = cv2.transpose(picture)
    return cv2.flip(picture, _FLIPS[orientation]) if orientation in _FLIPS else picture


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65_535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _refuse_bomb(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise Undecodable(f"{width} x {height} pixels are more than the {max_pixels:,} allowed")
