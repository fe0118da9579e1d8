"""Images: formats, modes, limits, threads, and real digits."""

import io
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from paths import DATA
from sparkdl import ConfigError, SchemaError
from sparkdl.data.features.image import ImageEncoder
from sparkdl.features import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def encoder(**options) -> ImageEncoder:
    return ImageEncoder.fit(Image("x", **{"height": 6, "width": 9, **options}), pa.binary())


def saved(image: Pillow.Image, format_: str, **options) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format_, **options)
    return encoded.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_each_format_is_read_as_pillow_reads_it(format_: str, mode: str, channels: int) -> None:
    content = saved(Pillow.fromarray(PIXELS), format_)
    expected = np.asarray(Pillow.open(io.BytesIO(content)).convert(mode)).reshape(6, 9, channels)
    assert (encoder(channels=channels).encode([content])[0] == expected).all()
    if format_ in ("PNG", "BMP", "TIFF", "PPM") and channels == 3:
        assert (expected == PIXELS).all()


def test_printers_colours_become_red_green_and_blue() -> None:
    content = saved(Pillow.fromarray(PIXELS).convert("CMYK"), "TIFF")
    assert np.abs(encoder().encode([content])[0].astype(int) - PIXELS).max() <= 1


def test_an_image_of_another_size_is_resized_bilinearly() -> None:
    image = Pillow.fromarray(PIXELS)
    expected = np.asarray(image.resize((4, 8), Pillow.Resampling.BILINEAR))
    assert (encoder(height=8, width=4).encode([saved(image, "PNG")])[0] == expected).all()


def test_the_orientation_of_cameras_is_not_applied() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    content = saved(Pillow.fromarray(PIXELS), "PNG", exif=exif)
    assert (encoder().encode([content])[0] == PIXELS).all()


def test_twelve_bits_are_stretched_as_sixteen_are() -> None:
    """A TIFF by hand, which Pillow does not write: two grey pixels, 0 and 4095, in 12 bits each."""
    pixels = bytes([0x00, 0x0F, 0xFF])
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 12)
    content = header + pixels + b"\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    assert encoder(height=1, width=2, channels=1).encode([content]).reshape(-1).tolist() == [0, 255]


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Pillow.new("L", (9, 6), value) for value in (10, 200)]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (encoder(channels=1).encode([content]) == 10).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image in one of the formats PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n", "no image in one of the formats PNG, JPEG"),
        (saved(Pillow.fromarray(PIXELS), "PNG")[:150], "truncated"),
        (saved(Pillow.new("F", (9, 6), 0.5), "TIFF"), "pixels that are fractions have no known range"),
        (saved(Pillow.new("I", (9, 6), 200), "TIFF"), "pixels of 32 bits have no known range"),
    ],
)
def test_an_undecodable_image_is_named_with_the_reason(content: bytes, reason: str) -> None:
    rows = [saved(Pillow.fromarray(PIXELS), "PNG"), content]
    with pytest.raises(SchemaError, match=rf"column 'x': image cannot be decoded \(.*{reason}.*1 of 2 rows; row 1 is"):
        encoder().encode(rows)
    with pytest.raises(SchemaError, match=reason):
        encoder(store="encoded").to_bytes(rows)
    assert (encoder(fill=3).encode(rows)[1] == 3).all()


@pytest.mark.parametrize("limit", [20, 40])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_of_very_many_pixels_is_refused(monkeypatch, limit: int) -> None:
    """At 54 pixels: more than twice Pillow's limit, where it raises, and between the limit and twice it."""
    content = saved(Pillow.fromarray(PIXELS), "PNG")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(SchemaError, match="image cannot be decoded .*limit of"):
        encoder().encode([content])
    assert not encoder(fill=0).encode([content]).any()


def test_the_first_images_may_come_in_several_threads() -> None:
    """In a new process, where Pillow's formats are not loaded yet."""
    code = (
        "import io, sys, numpy as np\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import sparkdl.features\n"
        "from sparkdl.data.features.image import ImageEncoder\n"
        "assert not any(name.split('.')[0] == 'PIL' for name in sys.modules)\n"
        "content = bytes.fromhex(sys.argv[1])\n"
        "encoder = ImageEncoder('x', (6, 9, 3), 'encoded', 0)\n"
        "with ThreadPoolExecutor(8) as threads:\n"
        "    found = list(threads.map(lambda rows: encoder.encode(rows), [[b'none', content]] * 32))\n"
        "print(len({values.tobytes() for values in found}), all(values[1].any() for values in found))\n"
    )
    content = saved(Pillow.fromarray(PIXELS), "WEBP", lossless=True)
    done = subprocess.run([sys.executable, "-c", code, content.hex()], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "True"], done.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"height": 0}, "height=0 must be a whole number of at least 1"),
        ({"width": "9"}, "width='9' must be a whole number of at least 1"),
        ({"channels": 4}, "channels=4 must be 3"),
        ({"store": "jpeg"}, "store='jpeg' must be one of pixels, encoded"),
        ({"fill": 256}, "fill=256 must be at most 255"),
        ({"fill": -1}, "fill=-1 must be a whole number of at least 0"),
    ],
)
def test_a_wrong_declaration_is_refused(options: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Image("x", **{"height": 6, "width": 9, **options})


@pytest.mark.parametrize(
    ("column", "way_out"),
    [
        (pa.array(["a"]), "give the encoded bytes"),
        (pa.array([[1, 2]]), "take its pixels as Tensor"),
        (pa.array([{"content": b""}]), "select its encoded bytes"),
    ],
)
def test_a_column_without_images_is_refused(column: pa.Array, way_out: str) -> None:
    with pytest.raises(SchemaError, match=f"are not images; {way_out}"):
        ImageEncoder.fit(Image("x", height=6, width=9), column.type)
    with pytest.raises(SchemaError, match=f"are not images; {way_out}"):
        encoder().encode(column)


def test_what_a_dataset_stores_is_said_by_the_encoder() -> None:
    assert encoder().stored == "values" and encoder(store="encoded").stored == "bytes"


def test_a_thousand_real_digits_are_read_as_pillow_reads_them() -> None:
    file = DATA / "mnist_test.parquet"
    if not file.exists():
        pytest.skip(f"no {file}")
    column = pq.read_table(file, columns=["content"])["content"].slice(0, 1000)
    expected = np.stack([np.asarray(Pillow.open(io.BytesIO(row))) for row in column.to_pylist()])[..., None]
    digits = encoder(height=28, width=28, channels=1, store="encoded")
    assert (digits.encode(column) == expected).all()
    assert digits.to_bytes(column).equals(column.combine_chunks())
    with ThreadPoolExecutor(4) as threads:
        pieces = threads.map(digits.encode, [column.slice(start, 100) for start in range(0, 1000, 100)])
        assert (np.concatenate(list(pieces)) == expected).all()
