"""Decoding: formats, colours, damage, scaling and crops."""

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from vitjax.data.decode import Undecodable, crop_box, decode, decode_mask, fit, random_crop, resize

# Pillow's, on damaged EXIF; pytest takes back what vitjax.data.decode asks for.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")


def photo(height=48, width=64) -> np.ndarray:
    """A smooth picture, so that lossy formats change little."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(
        np.uint8
    )


def noisy(height=48, width=64) -> np.ndarray:
    """A picture with sharp edges in its colours, in which a wrong way of decoding shows."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return noise.repeat(4, 0).repeat(4, 1)[:height, :width]


def profile(space: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def encoded(picture, kind: str, **how) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def far(a, b) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


@pytest.fixture(params=["simplejpeg", "opencv", "pillow"])
def decoder(request, monkeypatch) -> str:
    """Each way for a JPEG, the other ones missing."""
    if request.param != "simplejpeg":
        monkeypatch.setattr("vitjax.data.decode.simplejpeg", None)
    if request.param == "pillow":
        monkeypatch.setattr("cv2.imdecode", lambda *_: None)
    return request.param


@pytest.mark.parametrize(
    "kind, how, tolerance",
    [
        ("JPEG", dict(quality=95), 8),
        ("JPEG", dict(quality=95, progressive=True), 8),
        ("PNG", {}, 0),
        ("WEBP", dict(lossless=True), 0),
        ("BMP", {}, 0),
        ("TIFF", dict(compression="tiff_lzw"), 0),
    ],
)
def test_every_format_gives_the_picture_in_rgb(kind, how, tolerance):
    got = decode(encoded(photo(), kind, **how))
    assert got.dtype == np.uint8 and got.shape == (48, 64, 3)
    assert far(got, photo()) <= tolerance


JPEGS = {
    "4:4:4": lambda: encoded(noisy(), "JPEG", subsampling=0),
    "4:2:2": lambda: encoded(noisy(), "JPEG", subsampling=1),
    "4:2:0": lambda: encoded(noisy(), "JPEG", subsampling=2),
    "4:4:0": lambda: simplejpeg.encode_jpeg(noisy(), 75, colorsubsampling="440"),
    "by OpenCV": lambda: cv2.imencode(".jpg", noisy())[1].tobytes(),
    "quality 1": lambda: encoded(noisy(), "JPEG", quality=1),
    "quality 100": lambda: encoded(noisy(), "JPEG", quality=100),
    "progressive": lambda: encoded(noisy(), "JPEG", progressive=True),
    "own Huffman tables": lambda: encoded(noisy(), "JPEG", optimize=True),
    "restart markers": lambda: encoded(noisy(), "JPEG", restart_marker_blocks=2),
    "grey": lambda: encoded(noisy()[..., 0], "JPEG"),
    "RGB and not YCbCr": lambda: encoded(noisy(), "JPEG", keep_rgb=True),
    "CMYK": lambda: encoded(Image.fromarray(noisy()).convert("CMYK"), "JPEG"),
    "a foreign profile": lambda: encoded(noisy(), "JPEG", icc_profile=profile("LAB")),
    "several pictures": lambda: encoded(
        noisy(), "MPO", save_all=True, append_images=[Image.fromarray(photo())]
    ),
    "a comment": lambda: encoded(noisy(), "JPEG", comment=b"Exif\0\0"),
    "stray bytes at the end": lambda: encoded(noisy(), "JPEG") + b"\0\0trailing",
    "1 x 1": lambda: encoded(noisy(1, 1), "JPEG"),
    "1 x 5000": lambda: encoded(noisy(1, 5000), "JPEG"),
    "5000 x 1": lambda: encoded(noisy(5000, 1), "JPEG"),
}


@pytest.mark.parametrize("case", JPEGS)
def test_jpeg_colours_are_pillows_within_two(case, decoder):
    data = JPEGS[case]()
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    got = decode(data)
    assert got.shape == want.shape and far(got, want) <= 2


def test_ycck_is_converted_as_photoshop_means_it():
    """Pillow writes no YCCK, but CMYK with the first three inks as YCbCr, and Adobe's mark of that."""
    inks = np.asarray(Image.fromarray(photo()).convert("CMYK")).copy()
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    inks[..., :3] = 255 - ycc
    data = bytearray(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0))
    mark = data.index(b"Adobe") + 11
    assert data[mark] == 0
    data[mark] = 2
    assert far(decode(bytes(data)), photo()) <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation, decoder):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = photo()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    how = dict(quality=95) if kind == "JPEG" else {}
    got = decode(encoded(np.ascontiguousarray(stored), kind, exif=exif, **how))
    assert got.shape == upright.shape and far(got, upright) <= 8


def with_block(data: bytes, body: bytes) -> bytes:
    """A JPEG with one more APP1 block."""
    return data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


@pytest.mark.parametrize(
    "body", [b"", b"II*\0\xff\xff\xff\x7f garbage", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0"]
)
def test_damaged_exif_leaves_the_picture_as_it_is(body, decoder):
    data = with_block(encoded(photo(), "JPEG", quality=95), b"Exif\0\0" + body)
    assert far(decode(data), photo()) <= 8


def test_the_orientation_may_be_xmp(decoder):
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = with_block(encoded(np.ascontiguousarray(np.rot90(photo())), "JPEG", quality=95), xmp)
    assert far(decode(data), photo()) <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_is_repeated(kind):
    got = decode(encoded(Image.fromarray(photo()).convert("L"), kind))
    assert got.shape == (48, 64, 3) and (got[..., 0] == got[..., 2]).all()


def test_cmyk_is_converted_as_pillow_does():
    data = encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    assert far(decode(data), photo()) <= 16


def test_sixteen_bits_become_eight():
    values = np.linspace(0, 65_535, 48 * 64).reshape(48, 64).astype(np.uint16)
    got = decode(encoded(Image.fromarray(values), "PNG"))
    assert (got[..., 1] == values >> 8).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_of_colour_become_eight(channels):
    values = np.random.default_rng(0).integers(0, 65_536, (6, 5, channels), np.uint16)
    values[..., 3:] = 65_535  # opaque
    got = decode(cv2.imencode(".png", values[..., [2, 1, 0, 3][:channels]])[1].tobytes())
    assert far(got, values[..., :3] >> 8) <= 1


def test_half_transparent_is_half_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    got = decode(encoded(image, "PNG", transparency=bytes([128, 255])))
    assert far(got[0], [[227, 177, 127], [10, 20, 30]]) <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (0, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.putpixel((1, 2), 1)
    got = decode(encoded(image.convert(mode), "PNG", **(dict(transparency=0) if mode == "P" else {})))
    assert got[2, 1].tolist() == [0, 0, 0] and got[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind, how", [("WEBP", dict(lossless=True)), ("PNG", {}), ("TIFF", {})])
def test_an_animation_gives_its_first_frame(kind, how):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_an_error_and_not_half_a_picture(kind, decoder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(noise, kind)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(Undecodable):
            decode(data[: int(len(data) * share)])


def test_half_a_picture_of_an_opencv_that_accepts_it_is_not_taken(monkeypatch):
    monkeypatch.setattr("vitjax.data.decode.simplejpeg", None)
    monkeypatch.setattr("cv2.imdecode", lambda *_: photo())
    data = encoded(photo(), "JPEG")
    assert decode(data) is not None
    with pytest.raises(Undecodable):
        decode(data[: len(data) // 2])


def test_a_jpeg_that_lost_its_middle_is_an_error():
    data = encoded(noisy(64, 64), "JPEG")
    with pytest.raises(Undecodable, match="Corrupt JPEG data"):
        decode(data[: len(data) // 2] + data[-len(data) // 4 :])


@pytest.mark.parametrize(
    "data, match",
    [(b"", "empty"), (b"<html>not found</html>", "begins with b'<html>"), (b"GIF89a" + b"\0" * 99, "not a")],
)
def test_what_is_no_picture_says_so(data, match):
    with pytest.raises(Undecodable, match=match):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_too_many_pixels_are_refused(kind, decoder):
    with pytest.raises(Undecodable, match="64 x 48 pixels are more than the 3,000 allowed"):
        decode(encoded(photo(), kind), max_pixels=3_000)


def bombs() -> dict[str, bytes]:
    """Small files whose headers promise at least 268 million pixels."""
    files = {kind: bytearray(encoded(photo(), kind)) for kind in ("JPEG", "BMP", "TIFF")}
    sizes = files["JPEG"].index(b"\xff\xc0") + 5
    files["JPEG"][sizes : sizes + 4] = b"\xff\xdc" * 2
    files["BMP"][18:26] = struct.pack("<ii", 65_000, 65_000)
    for tag, side in ((256, 64), (257, 48)):
        at = files["TIFF"].index(struct.pack("<HHII", tag, 4, 1, side))
        files["TIFF"][at + 8 : at + 12] = struct.pack("<I", 65_000)
    files["WEBP"] = bytearray(encoded(photo(), "WEBP", lossless=True))
    files["WEBP"][21:25] = struct.pack("<I", 16_383 | 16_383 << 14)
    files["PNG"] = png(np.zeros((1, 1), np.uint8), 8, 0, size=(65_000, 65_000))
    return {kind: bytes(data) for kind, data in files.items()}


def test_bombs_are_refused_before_they_take_memory(tmp_path):
    for kind, data in bombs().items():
        (tmp_path / kind).write_bytes(data)
    program = """if True:
        import pathlib, resource, sys
        from vitjax.data.decode import Undecodable, decode
        decode(pathlib.Path(sys.argv[1]).read_bytes())
        for path in sys.argv[2:]:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                decode(pathlib.Path(path).read_bytes())
            except Undecodable as error:
                said = str(error)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, said)
    """
    (tmp_path / "sound").write_bytes(encoded(photo(), "WEBP"))
    files = [str(tmp_path / name) for name in ("sound", *bombs())]
    printed = subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, check=True
    )
    for line in printed.stdout.splitlines():
        grown_kib, said = line.split(" ", 1)
        assert int(grown_kib) < 8_192 and "pixels" in said, line
    assert len(printed.stdout.splitlines()) == 5


def test_an_array_must_be_a_picture():
    assert decode(photo()) is not None
    for wrong in (photo().astype(np.float32), photo()[..., :2], photo()[:0]):
        with pytest.raises(Undecodable, match="is not uint8"):
            decode(wrong)


@pytest.mark.parametrize(
    "shape, canvas, want",
    [((48, 64), 32, (24, 32)), ((64, 48), 32, (32, 24)), ((48, 64), 64, (48, 64)), ((48, 64), 99, (48, 64)),
     ((1, 5000), 100, (1, 100)), ((1, 1), 8, (1, 1))],
)  # fmt: skip
def test_fit_keeps_the_aspect_and_never_enlarges(shape, canvas, want):
    assert fit(photo(*shape), canvas).shape == (*want, 3)


@pytest.mark.parametrize("shrink", [1.5, 3, 10])
def test_shrinking_is_antialiased_as_pillows_is(shrink):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    picture = np.asarray(coarse.resize((600, 400), Image.BICUBIC))
    height, width = round(400 / shrink), round(600 / shrink)
    want = np.asarray(Image.fromarray(picture).resize((width, height), Image.BILINEAR))
    error = np.mean((resize(picture, height, width).astype(float) - want) ** 2)
    assert 10 * np.log10(255**2 / error) > 35


def test_a_fine_chequer_board_becomes_grey_and_not_a_pattern():
    board = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (100, 100))[..., None].repeat(3, -1)
    got = resize(board, 50, 50)
    assert far(got, 127) <= 12


def test_a_crop_has_the_area_and_aspect_asked_for_and_lies_inside():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(rng, 300, 400, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 300).all() and (left + width <= 400).all()
    share, ratio = height * width / (300 * 400), width / height
    assert 0.195 < share.min() and share.max() < 1.005 and 0.74 < ratio.min() and ratio.max() < 1.345
    small = np.array([crop_box(rng, 300, 400, (0.2, 0.4), (3 / 4, 4 / 3)) for _ in range(2000)])
    height, width = small[:, 2], small[:, 3]
    assert abs((height * width).mean() / (300 * 400) - 0.3) < 0.01
    assert abs(np.log(width / height).mean()) < 0.02


@pytest.mark.parametrize("shape, want", [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))])
def test_where_no_crop_fits_the_largest_central_one_is_taken(shape, want):
    assert crop_box(np.random.default_rng(0), *shape, (1.0, 1.0), (3 / 4, 4 / 3)) == want


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (500, 300)])
def test_a_crop_comes_at_the_size_asked_for(shape):
    got = random_crop(photo(*shape), np.random.default_rng(0), 32, (0.2, 1.0), (3 / 4, 4 / 3), "bicubic")
    assert got.shape == (32, 32, 3) and got.dtype == np.uint8


def png(numbers, bits: int, colour: int, extra: bytes = b"", size: tuple = ()) -> bytes:
    """A PNG of one channel written by hand: Pillow writes no grey of 2 or 4 bits."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = numbers.shape
    planes = np.unpackbits(numbers.astype(">u2")[..., None].view(np.uint8), axis=-1)[..., 16 - bits :]
    rows = np.packbits(planes.reshape(height, -1), axis=-1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", *(size or (width, height)), bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def palette_chunks(count: int, transparent: int) -> bytes:
    """A palette of `count` equal colours, of which the first ones are transparent."""
    chunks = b""
    for name, body in ((b"PLTE", b"\x80\x10\x20" * count), (b"tRNS", b"\0" * transparent)):
        chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return chunks


@pytest.mark.parametrize(
    "bits, colour",
    [(bits, "grey") for bits in (1, 2, 4, 8, 16)] + [(bits, "palette") for bits in (1, 2, 4, 8)],
)
def test_a_mask_keeps_its_numbers(bits, colour):
    numbers = np.random.default_rng(bits).integers(0, 2 ** min(bits, 8), (7, 13), np.uint8)
    numbers.flat[:2] = 0, 2 ** min(bits, 8) - 1
    data = png(numbers, bits, 0) if colour == "grey" else png(numbers, bits, 3, palette_chunks(2**bits, 2))
    got = decode_mask(data)
    assert got.dtype == np.uint8 and np.array_equal(got, numbers)


def test_a_mask_is_not_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decode_mask(encoded(numbers, "PNG", exif=exif)), numbers)


@pytest.mark.parametrize(
    "data, match",
    [
        (lambda: png(np.full((2, 2), 256), 16, 0), "number 256"),
        (lambda: encoded(photo(), "PNG"), "mode RGB"),
        (lambda: encoded(Image.new("LA", (2, 2)), "PNG"), "mode LA"),
        (lambda: encoded(Image.new("L", (2, 2)), "JPEG"), "not a PNG"),
        (lambda: encoded(photo()[..., 0], "PNG")[:-30], "OSError"),
        (lambda: b"", "empty"),
    ],
)
def test_what_is_no_mask_says_so(data, match):
    with pytest.raises(Undecodable, match=match):
        decode_mask(data())


def test_a_mask_of_too_many_pixels_is_refused_by_the_header():
    with pytest.raises(Undecodable, match="64 x 48 pixels are more than the 3,000 allowed"):
        decode_mask(encoded(photo()[..., 0], "PNG"), max_pixels=3_000)
