import functools
import http.server
import json
import pickle
import threading
from pathlib import Path

import pytest

from fluxflow.data.sources import locations
from fluxflow.data.sources.locations import expand
from fluxflow.data.sources.records import ordered
from fluxflow.data.sources.shards import ShardReader
from fluxflow.data.sources.tars import CUT, REST
from fluxflow.errors import DataError


def opened(urls, **options) -> ShardReader:
    reader = ShardReader(urls if isinstance(urls, list) else str(urls), **options)
    reader.open()
    return reader


def keys(reader) -> list[str]:
    return [record.key for record in ordered(reader)]


def problems(reader) -> dict[str, str]:
    return {record.key: record.problem for record in ordered(reader) if record.problem}


def write_index(folder: Path, **changes) -> None:
    """The index of a folder whose shards have the samples given by `changes["samples"]`."""
    tars = sorted(folder.glob("*.tar"))
    rows = [{"name": tar.name, "samples": count, "bytes": tar.stat().st_size, "sha256": tar.name}
            for tar, count in zip(tars, changes["samples"])]  # fmt: skip
    (folder / "index.json").write_text(json.dumps({"version": 1, "shards": rows}))


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves tmp_path over http; returns its URL."""
    monkeypatch.setattr(locations, "PAUSES", (0, 0))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_records_follow_the_shards_in_any_order_of_access(make_shards):
    reader = opened(make_shards(3, 2))
    assert (reader.shard_count(), keys(reader)) == (2, ["s0", "s1", "s2", "s3", "s4"])
    shard, all_records = reader.open_shard(0), list(ordered(reader))
    assert [shard.load(index) for index in (2, 0, 1)] == [all_records[2], all_records[0], all_records[1]]
    assert shard.name.endswith("00.tar")


def test_expansion_of_braces_folders_and_lists(make_shards):
    folder = make_shards(1, 1, 1)
    tars = [str(folder / f"{n:02d}.tar") for n in range(3)]

    def found(urls) -> list[str]:
        return [shard.location for shard in expand(urls)]

    assert found(f"{folder}/{{00..02}}.tar") == tars
    assert found(f"{folder}/{{00,02}}.tar") == [tars[0], tars[2]]
    assert found(str(folder)) == tars
    assert found([tars[2], f"{folder}/{{00..01}}.tar"]) == [tars[2], tars[0], tars[1]]
    assert found("https://example.org/{0..1}.tar") == ["https://example.org/0.tar", "https://example.org/1.tar"]


def test_caption_forms(make_tar, picture):
    several = {"captions": ["one", " two "], "caption": "unused", "plain": "plain"}
    tar = make_tar("a.tar", {
        "dir.x/text.JPG": picture(0, kind="JPEG"), "dir.x/text.txt": "\ufeffGrün \n".encode(),
        "dir.x/text.json": json.dumps({"caption": "unused", "plain": "plain"}).encode(),
        "json.webp": picture(1, kind="WEBP"), "json.json": json.dumps({"caption": "from json", "plain": "p"}).encode(),
        "more.png": picture(2), "more.json": json.dumps(several).encode(),
    })  # fmt: skip
    assert [(r.key, r.captions) for r in ordered(opened(tar))] == [
        ("dir_x/text", ("Grün",)), ("json", ("from json",)), ("more", ("one", "two")),
    ]  # fmt: skip
    assert [r.captions for r in ordered(opened(tar, caption_key="plain"))] == [("plain",), ("p",), ("plain",)]


def test_unusable_samples_carry_their_problem(make_tar, picture):
    good = picture(0)
    tar = make_tar("a.tar", {
        "ok.png": good, "ok.txt": b"fine",
        "a.txt": b"alone", "b.png": good, "c.png": good, "c.txt": b"\xff\xfe\x00", "d.png": good, "d.json": b"[1]",
        "e.png": good, "e.json": b'{"caption": 3}', "f.png": good, "f.json": b"{", "g.png": good, "g.json": b"{}",
        "h.png": good, "h.txt": b" \n", "i.png": good, "i.json": b'{"captions": ["", " "]}',
        "j.png": good, "j.json": b"[" * 100_000,
    })  # fmt: skip
    assert problems(opened(tar)) == {
        "a": "no picture", "b": "no caption", "c": "caption that is no UTF-8 text", "d": "caption in no JSON object",
        "e": "caption that is no string", "f": "caption in no JSON object", "g": "no caption", "h": "empty caption",
        "i": "empty caption", "j": "caption in no JSON object",
    }  # fmt: skip


def test_members_of_other_kinds_are_never_read(make_tar, picture):
    bomb = b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."
    members = {"k.pkl": bomb, "k.pyd": bomb, "k.png": picture(0), "k.txt": b"x", "k.seg.png": b"mask", "l.pkl": bomb}
    assert [record.captions for record in ordered(opened(make_tar("a.tar", members)))] == [("x",)]


def test_samples_of_one_name_get_keys_of_their_own(make_tar, picture):
    members = {"a.b/c.png": picture(0), "a.b/c.txt": b"x", "a_b/c.png": picture(1), "a_b/c.txt": b"y"}
    assert keys(opened(make_tar("a.tar", members))) == ["a_b/c", "a_b/c-2"]


@pytest.mark.parametrize(
    "url", ["pipe:touch pwned", "file:/etc/passwd", "hf://x/y.tar", "https://x/y'; ls'.tar", "s3:x", "pipe://x.tar"]
)
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


def test_of_a_truncated_shard_what_can_be_read_is_used(make_shards):
    tar = make_shards(8) / "00.tar"
    whole = tar.read_bytes()
    complete = {record.key: record for record in ordered(opened(tar))}
    for cut in range(3000, len(whole.rstrip(b"\0")), 412):
        tar.write_bytes(whole[:cut])
        records = list(ordered(opened(tar)))
        for record in records[:-2]:
            assert record == complete[record.key]
        assert records[-1].problem == REST
        assert records[-2].problem in (CUT, "no caption", "")
        assert records[-2].problem or records[-2] == complete[records[-2].key]


def test_damage_in_the_middle_ends_a_shard(make_shards):
    tar = make_shards(8) / "00.tar"
    content = bytearray(tar.read_bytes())
    at = content.index(b"s4.png")
    content[at : at + 300] = b"\xff" * 300
    tar.write_bytes(content)
    assert keys(opened(tar))[:4] == ["s0", "s1", "s2", "s3"]
    assert list(problems(opened(tar)).values()) == [REST]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b" + b"\0" * 2000])
def test_a_shard_that_cannot_be_read_is_named(make_shards, content):
    tar = make_shards(4, 4) / "01.tar"
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"01\.tar is damaged or no uncompressed tar"):
        keys(opened(tar.parent))


def test_an_index_is_believed_only_where_it_is_right(make_shards):
    folder = make_shards(4, 3)
    write_index(folder, samples=(4, 3))
    assert len(keys(opened(folder))) == 7
    write_index(folder, samples=(4, 2))
    with pytest.raises(DataError, match=r"01\.tar holds 3 samples where its index\.json says 2"):
        keys(opened(folder))
    write_index(folder, samples=(4, 3))
    (folder / "01.tar").write_bytes(b"\0" * 2048)
    with pytest.raises(DataError, match=r"01\.tar has 2048 bytes where its index\.json says"):
        opened(folder)
    (folder / "01.tar").unlink()
    with pytest.raises(DataError, match=r"index\.json disagrees with its folder about 01\.tar"):
        opened(folder)
    (folder / "index.json").write_text("{}")
    with pytest.raises(DataError, match=r"index\.json is no index of shards"):
        opened(folder)


def test_fingerprint_changes_with_the_source_and_not_with_its_place(make_shards):
    first = opened(make_shards(4, 3)).fingerprint()
    assert opened(make_shards(4, 3, folder="moved")).fingerprint() == first
    assert opened(make_shards(4, 30, folder="larger")).fingerprint() != first


def test_shards_over_http(make_shards, serve):
    folder = make_shards(4, 3)
    assert keys(opened(f"{serve}/shards/{{00..01}}.tar")) == keys(opened(folder))
    with pytest.raises(DataError, match=r"name the tars"):
        expand(f"{serve}/shards")
    write_index(folder, samples=(4, 3))
    assert keys(opened(f"{serve}/shards")) == keys(opened(folder))
    with pytest.raises(DataError, match=r"02\.tar is out of reach: HTTP Error 404"):
        opened(f"{serve}/shards/02.tar")


def test_an_answer_that_breaks_off_is_asked_for_again(make_shards, serve, monkeypatch):
    make_shards(4)
    asked, copy = [], locations._copy

    def broken(url, file):
        asked.append(url)
        if len(asked) < 3:
            raise OSError("the connection ended")
        copy(url, file)

    monkeypatch.setattr(locations, "_copy", broken)
    assert len(keys(opened(f"{serve}/shards/00.tar"))) == 4
    asked.clear()
    monkeypatch.setattr(locations, "PAUSES", (0,))
    with pytest.raises(DataError, match="the connection ended"):
        opened(f"{serve}/shards/00.tar")


def test_shards_in_a_store_that_fsspec_reaches(make_shards, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setitem(locations.EXTRAS, "memory", "none")
    files, folder = fsspec.filesystem("memory"), make_shards(4, 3)
    for tar in folder.glob("*.tar"):
        files.pipe(f"/bucket/{tar.name}", tar.read_bytes())
    assert keys(opened("memory://bucket")) == keys(opened(folder))
    assert keys(opened("memory://bucket/01.tar")) == ["s4", "s5", "s6"]


def test_a_missing_extra_is_named(monkeypatch):
    import fsspec.core

    def missing(url: str):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match=r"pip install 'fluxflow\[s3\]'"):
        opened("s3://bucket/00.tar")


def test_readers_can_be_sent_to_workers(make_shards):
    reader = opened(make_shards(4, 3))
    assert keys(pickle.loads(pickle.dumps(reader))) == keys(reader)
