import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fluxflow.data.images.decode import MAX_PIXELS, UndecodableImage, decode, decoder_name, probe
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import ordered
from fluxflow.data.sources.shards import ShardReader
from tests.data import faults

FAULTS = {fault.name: fault for fault in faults.faults()}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_read_right_or_refused_with_its_reason(name):
    fault = FAULTS[name]
    if fault.caption_is_bad:
        return
    if fault.reason:
        for least in (None, (8, 8)):
            with pytest.raises(UndecodableImage) as caught:
                decode(fault.data, least)
            assert str(caught.value) == fault.reason
        return
    pixels = decode(fault.data)
    assert fault.pixels is not None
    assert pixels.shape == fault.pixels.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert np.abs(pixels - fault.pixels.astype(float)).mean() <= fault.tolerance
    assert probe(fault.data) == (pixels.shape[1], pixels.shape[0])


def test_there_are_enough_faults_and_their_names_are_unique():
    assert len(FAULTS) == len(faults.faults()) >= 25


CHILD = """
import resource, sys
from pathlib import Path
from fluxflow.data.images.decode import UndecodableImage, decode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux counts in KiB

before = peak()
for path in Path(sys.argv[1]).iterdir():
    try:
        decode(path.read_bytes())
    except UndecodableImage:
        pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_no_fault_takes_much_memory(tmp_path):
    for fault in FAULTS.values():
        (tmp_path / fault.name).write_bytes(fault.data)
    result = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 64  # MiB


def save(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    return faults.saved(image, kind, **options)


def smooth_jpeg(width: int, height: int, **options) -> tuple[np.ndarray, bytes]:
    image = faults.picture(width, height)
    return image, save(image, "JPEG", quality=95, **options)


@pytest.mark.parametrize(
    ("least", "size"),
    [
        (None, (960, 640)),
        ((640, 960), (960, 640)),
        ((321, 100), (960, 640)),
        ((320, 481), (960, 640)),
        ((320, 480), (480, 320)),
        ((200, 200), (480, 320)),
        ((160, 10), (240, 160)),
        ((1, 1), (120, 80)),
    ],
)
def test_large_jpegs_are_decoded_smaller_but_never_below_what_is_needed(least, size):
    image, data = smooth_jpeg(960, 640)
    pixels = decode(data, least)
    assert pixels.shape == (size[1], size[0], 3)
    factor = 960 // size[0]
    means = image.reshape(size[1], factor, size[0], factor, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(pixels - means).mean() < 1


def test_odd_sides_are_rounded_up():
    assert decode(smooth_jpeg(375, 501)[1], (125, 187)).shape == (251, 188, 3)


def test_what_is_needed_is_meant_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    _, data = smooth_jpeg(960, 640, exif=exif)
    assert probe(data) == (640, 960)
    assert decode(data, (480, 160)).shape == (480, 320, 3)
    assert decode(data, (160, 320)).shape == (480, 320, 3)
    assert decode(data, (160, 321)).shape == (960, 640, 3)


def test_exif_behind_other_segments_is_found():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = save(faults.picture(), "JPEG", exif=exif, icc_profile=bytes(200_000), comment="x")
    start = data.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    last = data.index(b"\xff\xda")
    moved = data[:start] + data[end:last] + data[start:end] + data[last:]
    assert np.array_equal(decode(moved), decode(data))


def test_bands_join_without_a_seam():
    image = np.random.default_rng(0).integers(0, 256, (1100, 2000, 3), dtype=np.uint8)
    assert np.array_equal(decode(save(image)), image)


def test_a_picture_at_the_cap_is_probed_and_one_above_refused():
    side = int(MAX_PIXELS**0.5)
    assert probe(faults.png(side, side, 1, 0, b"")) == (side, side)
    with pytest.raises(UndecodableImage, match=faults.TOO_LARGE):
        probe(faults.png(side + 1, side, 1, 0, b""))


def test_the_decoders_have_versions():
    assert all(name in decoder_name() for name in ("simplejpeg 1.", "Pillow 1"))


@pytest.mark.parametrize("kind", ["folder", "shard"])
def test_the_fault_set_as_a_source_is_counted_by_reason(kind, tmp_path):
    chosen = faults.faults()
    if kind == "folder":
        reader = FolderReader(str(faults.write_folder(tmp_path / "folder", chosen)))
    else:
        reader = ShardReader(str(faults.write_shard(tmp_path / "shard.tar", chosen)))
    reader.open()
    found: Counter[str] = Counter()
    for record in ordered(reader):
        assert bool(record.problem) == FAULTS[record.key].caption_is_bad
        if not record.problem:
            try:
                decode(record.image)
                found[""] += 1
            except UndecodableImage as error:
                found[str(error)] += 1
    assert found == faults.counts(chosen)
