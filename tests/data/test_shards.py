import itertools
import json
import pickle
from collections import Counter

import pytest

from fluxflow.data.records import ALONE, Part, Place
from fluxflow.data.shards import ShardReader, expand
from fluxflow.errors import DataError

WHOLE = Part()


def opened(urls, **options) -> ShardReader:
    reader = ShardReader(str(urls), **options)
    reader.open()
    return reader


def keys(records) -> list[str]:
    return [record.key for record in records]


@pytest.mark.parametrize("sizes", [(7, 5, 6, 9, 3), (20,), (9, 1)], ids=["many shards", "one shard", "few shards"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (2, 2), (2, 0)])
def test_a_pass_shows_every_sample_once_over_all_places(make_shards, sizes, ranks, workers):
    reader = opened(make_shards(*sizes), shuffle_buffer=4)
    places = [Place(rank, ranks, worker, max(workers, 1)) for rank in range(ranks) for worker in range(max(workers, 1))]
    shares = [keys(reader.shuffled("0/0/0", place, WHOLE)) for place in places]
    assert Counter(itertools.chain(*shares)) == Counter(f"s{n}" for n in range(sum(sizes)))
    assert all(shares)


def test_order_is_a_function_of_the_order_string_and_the_place(make_shards):
    reader = opened(make_shards(10, 10, 10), shuffle_buffer=5)
    passes = [keys(reader.shuffled(order, ALONE, WHOLE)) for order in ("0/0/0", "0/0/1", "1/0/0", "0/9/0")]
    assert keys(reader.shuffled("0/0/0", ALONE, WHOLE)) == passes[0]
    assert len({tuple(p) for p in passes}) == 4
    assert all(sorted(p) == sorted(passes[0]) for p in passes)
    assert passes[0] != keys(reader.ordered(WHOLE))


def test_ordered_follows_the_shards(make_shards):
    assert keys(opened(make_shards(3, 2)).ordered(WHOLE)) == ["s0", "s1", "s2", "s3", "s4"]


def test_parts_are_disjoint_and_complete(make_shards):
    reader = opened(make_shards(60, 40))
    rest, held_out = (set(keys(reader.shuffled("x", ALONE, Part(0.2, side)))) for side in (False, True))
    assert rest
    assert held_out
    assert not rest & held_out
    assert len(rest | held_out) == 100
    assert set(keys(reader.ordered(Part(0.2, True)))) == held_out


def test_expansion_of_braces_folders_and_lists(make_shards):
    folder = make_shards(1, 1, 1)
    tars = [str(folder / f"{n:02d}.tar") for n in range(3)]
    assert expand(f"{folder}/{{00..02}}.tar") == tars
    assert expand(f"{folder}/{{00,02}}.tar") == [tars[0], tars[2]]
    assert expand(str(folder)) == tars
    assert expand([tars[2], f"{folder}/{{00..01}}.tar"]) == [tars[2], tars[0], tars[1]]
    assert expand("https://example.org/{0..1}.tar") == ["https://example.org/0.tar", "https://example.org/1.tar"]


def test_caption_forms(make_tar, picture):
    tar = make_tar("a.tar", {
        "dir.x/text.JPG": picture(0, kind="JPEG"), "dir.x/text.txt": "\ufeffGrün \n".encode(),
        "dir.x/text.json": json.dumps({"caption": "unused", "plain": "plain"}).encode(),
        "json.webp": picture(1, kind="WEBP"), "json.json": json.dumps({"caption": "from json", "plain": "p"}).encode(),
    })  # fmt: skip
    assert [(r.key, r.captions[0]) for r in opened(tar).ordered(WHOLE)] == [
        ("dir_x/text", "Grün"),
        ("json", "from json"),
    ]
    assert [r.captions[0] for r in opened(tar, caption_key="plain").ordered(WHOLE)] == ["plain", "p"]


def test_unusable_samples_carry_their_problem(make_tar, picture):
    good = picture(0)
    tar = make_tar("a.tar", {
        "ok.png": good, "ok.txt": b"fine",
        "a.txt": b"alone", "b.png": good, "c.png": good, "c.txt": b"\xff\xfe\x00", "d.png": good, "d.json": b"[1]",
        "e.png": good, "e.json": b'{"caption": 3}', "f.png": good, "f.json": b"{", "g.png": good, "g.json": b"{}",
    })  # fmt: skip
    problems = {record.key: record.problem for record in opened(tar).ordered(WHOLE)}
    assert problems.pop("ok") == ""
    expected = {
        "a": "no picture",
        "b": "no caption",
        "c": "UTF-8",
        "d": "JSON",
        "e": "string",
        "f": "JSON",
        "g": "no cap",
    }
    assert {key: expected[key] in problem for key, problem in problems.items()} == dict.fromkeys(expected, True)


def test_members_of_other_kinds_are_never_read(make_tar, picture):
    bomb = b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."
    tar = make_tar("a.tar", {"k.pkl": bomb, "k.pyd": bomb, "k.png": picture(0), "k.txt": b"x"})
    assert [record.captions[0] for record in opened(tar).ordered(WHOLE)] == ["x"]


@pytest.mark.parametrize("url", ["pipe:touch pwned", "file:/etc/passwd", "hf://x/y.tar", "https://x/y'; ls'.tar"])
def test_urls_of_other_kinds_are_refused(url):
    with pytest.raises(DataError, match="cannot be read"):
        expand(url)


def test_missing_data_is_named(tmp_path, make_folder, make_shards, make_tar):
    folder = make_folder(3)
    with pytest.raises(DataError, match=r"No \*\.tar in .*pictures; it holds 1 \.png and 1 \.txt files.*data=folder"):
        expand(str(folder))
    with pytest.raises(DataError, match=r"no shard .*02\.tar; .* holds 2 \.tar files"):
        expand(f"{make_shards(1, 1)}/{{00..02}}.tar")
    with pytest.raises(DataError, match="does not exist"):
        expand(str(tmp_path / "nowhere" / "0.tar"))
    with pytest.raises(DataError, match="not balanced"):
        expand("{0..1.tar")
    with pytest.raises(DataError, match="No shards are named"):
        expand([])
    with pytest.raises(DataError, match="holds no sample"):
        opened(make_tar("empty.tar", {"a.bin": b""}))


def test_shards_without_captions_are_refused_at_once(make_tar, picture):
    with pytest.raises(DataError, match=r"first 2 samples .* no caption"):
        opened(make_tar("a.tar", {"a.png": picture(0), "b.png": picture(1)}))


def test_damaged_shard_is_named(tmp_path, make_shards):
    tar = make_shards(8) / "00.tar"
    tar.write_bytes(tar.read_bytes()[:6000])
    with pytest.raises(DataError, match=r"00\.tar is damaged"):
        list(opened(tar).ordered(WHOLE))


def test_count_and_pickling(make_shards):
    reader = opened(make_shards(4, 3))
    assert reader.count() == 7
    assert keys(pickle.loads(pickle.dumps(reader)).ordered(WHOLE)) == keys(reader.ordered(WHOLE))
