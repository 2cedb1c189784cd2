import io

import numpy as np
import pytest
from PIL import Image

from fluxflow.data.prepare.plan import near_duplicates
from fluxflow.data.prepare.scan import difference_hash


def one_by_one(hashes: list[int], distance: int) -> list[int]:
    """The definition: each is compared with every kept one before it."""
    kept: list[int] = []
    result = []
    for index, value in enumerate(hashes):
        first = next((other for other in kept if (hashes[other] ^ value).bit_count() <= distance), -1)
        result.append(first)
        if first < 0:
            kept.append(index)
    return result


@pytest.mark.parametrize("distance", [0, 1, 3, 6, 10])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_comparing_all_pairs(distance, seed):
    rng = np.random.default_rng(seed)
    hashes = [int(value) for value in rng.integers(0, 2**64, 40, dtype=np.uint64)]
    while len(hashes) < 400:  # chains of neighbours, whose ends are farther apart than the distance
        value = hashes[rng.integers(len(hashes))]
        for bit in rng.integers(0, 64, rng.integers(0, distance + 3)):
            value ^= 1 << int(bit)
        hashes.append(value)
    assert near_duplicates(np.array(hashes, np.uint64), distance).tolist() == one_by_one(hashes, distance)


def test_no_hashes():
    assert near_duplicates(np.array([], np.uint64), 3).tolist() == []


def jpeg(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def test_hash_survives_scaling_and_recompression_and_tells_pictures_apart():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((360, 280)) for _ in range(12)]
    hashes = [difference_hash(jpeg(picture, 95)) for picture in pictures]
    copies = [difference_hash(jpeg(picture.resize((190, 140)), 60)) for picture in pictures]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, copies, strict=True)) <= 3
    assert min((a ^ b).bit_count() for a in hashes for b in hashes if a != b) > 12


def test_hash_is_that_of_the_definition():
    steps = np.repeat(np.repeat(np.array([[0, 50, 40, 60, 60, 10, 90, 80, 200]] * 8, np.uint8), 8, 0), 8, 1)
    data = io.BytesIO()
    Image.fromarray(steps).save(data, "PNG")
    assert difference_hash(data.getvalue()) == int("10100101" * 8, 2)


def test_first_by_key_stays_whatever_its_caption(make_tar, tmp_path, picture, prepare, records, capsys):
    from fluxflow.data.sources.shards import ShardReader

    rng = np.random.default_rng(1)
    motif = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((180, 140))
    members = {"z.jpg": jpeg(motif, 90), "z.txt": b"last", "b.jpg": jpeg(motif.resize((90, 70)), 80), "b.txt": b"first",
               "m.png": picture(3), "m.txt": b"another"}  # fmt: skip
    make_tar("in.tar", members)
    assert prepare(tmp_path / "in.tar", tmp_path / "out", "--drop-duplicates") == 0
    assert set(records(ShardReader(str(tmp_path / "out" / "train")))) == {"b", "m"}
    line = '{"source": "in.tar/z", "key": "z", "reason": "near duplicate", "of": "b"}\n'
    assert (tmp_path / "out" / "rejected.jsonl").read_text() == line
    assert "1 near duplicate: in.tar/z" in capsys.readouterr().out
