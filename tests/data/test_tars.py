import io
import json
import subprocess
import sys
import tarfile

import pytest

from fluxflow.data.sources.records import MAX_CAPTION, ordered
from fluxflow.data.sources.shards import ShardReader
from fluxflow.data.sources.tars import DOTTED, LINK, REST
from fluxflow.errors import DataError
from tests.data.conftest import encoded
from tests.data.hostile import END, base256, entry, hostile, pax

HOSTILE = dict(hostile())


def sample(name: str, number: int = 0) -> bytes:
    return entry(f"{name}.png", encoded(number)) + entry(f"{name}.txt", f"caption {name}".encode())


def records(path, **options):
    reader = ShardReader(str(path), **options)
    reader.open()
    return list(ordered(reader))


def written(tmp_path, *parts: bytes):
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(parts) + END)
    return path


def captions(path) -> dict[str, str]:
    return {record.key: record.problem or record.captions[0] for record in records(path)}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_hostile_tar_claims_is_rejected_by_name(name, tmp_path):
    case = HOSTILE[name]
    path = written(tmp_path, sample("before"), case.data, sample("behind"))
    expected = {"before": "caption before"} | case.problems
    assert captions(path) == expected | ({"behind": "caption behind"} if case.goes_on else {})


CHILD = """
import resource, sys, time
from fluxflow.data.sources.records import ordered
from fluxflow.data.sources.shards import ShardReader
from fluxflow.errors import DataError

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux counts in KiB
before, start = peak(), time.process_time()
for path in sys.argv[1:]:
    reader = ShardReader(path)
    try:
        reader.open()
    except DataError:
        continue
    for record in ordered(reader):
        assert len(record.image) < 1 << 20
print(peak() - before, time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_no_hostile_tar_takes_much_memory_or_time(tmp_path):
    for number, case in enumerate(HOSTILE.values()):
        written(tmp_path, sample("before"), case.data, sample("behind")).rename(tmp_path / f"{number}.tar")
        written(tmp_path, case.data, sample("behind")).rename(tmp_path / f"first{number}.tar")
    with (tmp_path / "holes.tar").open("wb") as file:  # a picture of 6 GB, of nothing
        file.write(entry("x.png", size=base256(6 << 30)))
        file.seek(6 << 30, 1)
        file.write(entry("x.txt", b"large") + sample("behind") + END)
    paths = [str(path) for path in tmp_path.glob("*.tar")]
    result = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    memory, seconds = map(float, result.stdout.split())
    assert memory < 64  # MiB
    assert seconds < 20


@pytest.mark.parametrize("name", ["negative", "long_name_of_gigabytes", "pax_of_no_records", "checksum"])
def test_a_tar_that_begins_so_is_named(name, tmp_path):
    path = written(tmp_path, HOSTILE[name].data.replace(b"x.png", b"x.bin"), sample("behind"))
    with pytest.raises(DataError, match=r"Shard .*a\.tar is damaged or no uncompressed tar"):
        records(path)


def test_files_that_do_not_follow_one_another_are_one_sample(tmp_path):
    files = {f"{n:02d}": (entry(f"./{n:02d}.png", encoded(n)), entry(f"./{n:02d}.txt", b"caption %d" % n))
             for n in range(20)}  # fmt: skip
    pictures, texts = zip(*files.values(), strict=True)
    path = written(tmp_path, entry("./", kind=b"5"), *texts[::-1], *pictures)
    found = records(path)
    assert [record.key for record in found] == list(files)[::-1]  # in the order of their first files
    assert {record.key: (record.image, record.captions) for record in found} == {
        f"{n:02d}": (encoded(n), (f"caption {n}",)) for n in range(20)
    }


def test_names_that_come_twice_stay_with_their_neighbours(tmp_path):
    """What two tars in one hold: who joined the last caption of a name to its first picture would mix them."""
    path = written(tmp_path, entry("a.png", encoded(0)), sample("b"), sample("a", 1), entry("a.txt", b"alone"))
    assert captions(path) == {"a": "no caption", "b": "caption b", "a-2": "caption a", "a-3": "no picture"}


def test_names_of_any_spelling_give_keys_below_the_root(tmp_path):
    names = ["./a", "/abs/b", "../../c", "d/./../e", "gr\xfcn".encode("latin-1").decode("utf-8", "surrogateescape"),
             "\x1b[2Jf", "g\u202e"]  # fmt: skip
    parts = [entry(f"{name}.{suffix}".encode("utf-8", "surrogateescape"), content)
             for name in names for suffix, content in (("png", encoded(0)), ("txt", b"x"))]  # fmt: skip
    assert list(captions(written(tmp_path, *parts))) == ["a", "abs/b", "c", "e", "gr_n", "_[2Jf", "g_"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_read_in_every_format(form, tmp_path):
    name = "/".join("folder" + "x" * 60 for _ in range(3)) + "/käse"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for suffix, content in (("png", encoded(0)), ("txt", b"x")):
            member = tarfile.TarInfo(f"{name}.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert captions(tmp_path / "a.tar") == {name: "x"}


def test_links_within_a_tar_are_followed(tmp_path):
    path = written(
        tmp_path, entry("store/one.bin", encoded(1)), entry("a.png", kind=b"1", link=b"./store/one.bin"),
        entry("a.txt", b"hard"), entry("sub/b.png", kind=b"2", link=b"../store/two.bin"), entry("sub/b.txt", b"soft"),
        entry("store/two.bin", encoded(2)), entry("c.png", kind=b"1", link=b"a.png"), entry("c.txt", b"chain"),
    )  # fmt: skip
    found = {record.key: (record.image, record.captions, record.problem) for record in records(path)}
    assert found == {"a": (encoded(1), ("hard",), ""), "sub/b": (encoded(2), ("soft",), ""), "c": (b"", (), LINK)}


def test_pictures_with_a_dot_in_their_name_are_rejected_unless_they_are_companions(tmp_path):
    path = written(
        tmp_path, entry("v1.5.jpg", b"x"), entry("v1.5.txt", b"x"), entry("v1.6.JPG", b"x"), sample("k"),
        entry("k.seg.png", b"mask"), entry("notes.md", b""), entry("k.cls", b"1"),
    )  # fmt: skip
    assert captions(path) == {"k": "caption k", "v1_5": DOTTED, "v1_6": DOTTED}
    reader = ShardReader(str(path))
    reader.open()
    assert reader.open_shard(0).tar.passed_over == {".txt": 1, ".png": 1, ".md": 1, ".cls": 1}


def test_captions_have_a_size_that_is_borne(tmp_path):
    long = b"x" * (MAX_CAPTION + 1)
    path = written(tmp_path, sample("ok"), entry("t.png", encoded(0)), entry("t.txt", long), entry("j.png", encoded(0)),
                   entry("j.json", json.dumps({"caption": "x", "more": long.decode()}).encode()))  # fmt: skip
    assert captions(path) == {"ok": "caption ok", "t": "file above 1 MiB", "j": "file above 1 MiB"}


def test_captions_are_optional_where_nobody_needs_them(tmp_path):
    path = written(tmp_path, entry("a.png", encoded(0)), sample("b"), entry("c.png", encoded(2)),
                   entry("c.txt", b"\xff"), entry("d.txt", b"x"))  # fmt: skip
    found = records(path, needs_captions=False)
    assert {r.key: (r.captions, r.problem) for r in found} == {
        "a": ((), ""), "b": (("caption b",), ""), "c": ((), ""), "d": ((), "no picture"),
    }  # fmt: skip
    assert [r.image for r in found[:3]] == [encoded(0), encoded(0), encoded(2)]


def test_global_pax_headers_and_those_of_pax_names_are_read_over(tmp_path):
    told = {"path": b"long.png", "size": b"%d" % len(encoded(3))}
    path = written(tmp_path, pax({"comment": b"0123"}, b"g"), pax(told), entry("short.png", encoded(3), size=0),
                   entry("long.txt", b"x"))  # fmt: skip
    (record,) = records(path)
    assert (record.key, record.image) == ("long", encoded(3))


def test_the_rest_of_a_cut_tar_is_one_sample(tmp_path):
    path = written(tmp_path, sample("a"), sample("b"))
    path.write_bytes(path.read_bytes()[:-1024])  # without its end
    assert list(captions(path)) == ["a", "b", REST]
