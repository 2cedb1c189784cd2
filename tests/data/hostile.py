"""Tars built header by header, so that they can lie."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from fluxflow.data.sources.tars import CUT, LINK, NEGATIVE, NO_FILE, REST, SPARSE

END = bytes(1024)


def entry(
    name: str | bytes, content: bytes = b"", kind: bytes = b"0", size: bytes | int | None = None, link: bytes = b"",
    at: dict[int, bytes] | None = None,
) -> bytes:  # fmt: skip
    """A header with its content, padded.

    Args:
        name: of the member.
        content: what follows the header.
        kind: type of the member.
        size: what the header says of it, a number or its field; None: the truth.
        link: what it is a link to.
        at: other bytes of the header, by offset.
    """
    block = bytearray(512)
    name = name.encode() if isinstance(name, str) else name
    size = len(content) if size is None else size
    fields = {0: name[:100], 100: b"0000644\0", 108: b"0000000\0", 116: b"0000000\0", 136: b"%011o\0" % 0,
              124: b"%011o\0" % size if isinstance(size, int) else size, 148: b" " * 8, 156: kind, 157: link[:100],
              257: b"ustar\x0000", **(at or {})}  # fmt: skip
    for offset, value in fields.items():
        block[offset : offset + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % 512)


def base256(number: int) -> bytes:
    """A size field as GNU tar writes it for large and negative numbers."""
    return tarfile.itn(number, 12, tarfile.GNU_FORMAT)  # pyright: ignore[reportAttributeAccessIssue]


def pax(records: dict[str, bytes], kind: bytes = b"x") -> bytes:
    """A pax header."""
    content = b""
    for key, value in records.items():
        record = b" " + key.encode() + b"=" + value + b"\n"
        length = len(record) + 2
        while len(b"%d" % length) + len(record) != length:
            length += 1
        content += b"%d" % length + record
    return entry("pax", content, kind)


@dataclass(frozen=True)
class Hostile:
    """What stands between two good samples.

    Args:
        data: headers and contents.
        problems: by the key of the sample.
        goes_on: whether the sample behind it is still found.
    """

    data: bytes
    problems: dict[str, str]
    goes_on: bool = True


def hostile() -> Iterator[tuple[str, Hostile]]:
    rest = {REST: REST}
    picture = b"no picture"
    yield "negative", Hostile(entry("x.png", picture, size=base256(-512)), {"x": NEGATIVE} | rest, False)
    yield "negative_far", Hostile(entry("x.png", picture, size=base256(-(2**80))), {"x": NEGATIVE} | rest, False)
    yield "above_the_file", Hostile(entry("x.png", picture, size=1 << 30), {"x": CUT} | rest, False)
    yield "2_to_80", Hostile(entry("x.png", picture, size=base256(2**80)), {"x": CUT} | rest, False)
    yield "2_to_63_less_1", Hostile(entry("x.png", picture, size=base256(2**63 - 1)), {"x": CUT} | rest, False)
    yield "size_of_text", Hostile(entry("x.png", picture, size=b"nonsense\0"), rest, False)
    yield "owner_of_text", Hostile(entry("x.png", picture, at={108: b"nobody!\0"}), rest, False)
    yield "negative_time", Hostile(entry("x.bin", picture, at={136: base256(-1), 108: b"\xff" * 8}), {})
    yield "checksum", Hostile(entry("x.png", picture).replace(b"0000644", b"0000777"), rest, False)
    yield "pax_size_negative", Hostile(pax({"size": b"-1"}) + entry("x.png", picture), {"x": NEGATIVE} | rest, False)
    yield "pax_size_of_text", Hostile(pax({"size": b"many"}) + entry("x.png", picture), rest, False)
    yield "pax_size_huge", Hostile(pax({"size": b"9" * 5000}) + entry("x.png", picture), rest, False)
    yield "pax_size_2_to_80", Hostile(pax({"size": b"%d" % 2**80}) + entry("x.png", b""), {"x": CUT} | rest, False)
    yield "pax_of_no_records", Hostile(entry("pax", b"0 =\n" * 9, b"x") + entry("x.png", picture), rest, False)
    yield "pax_record_beyond", Hostile(entry("pax", b"999999 path=x\n", b"x") + entry("x.png", picture), rest, False)
    yield "pax_of_gigabytes", Hostile(entry("pax", b"", b"x", size=8 << 30) + entry("x.png", picture), rest, False)
    yield "pax_negative", Hostile(entry("pax", b"", b"x", size=base256(-512)) + entry("x.png"), rest, False)
    yield "pax_global_negative", Hostile(entry("pax", b"", b"g", size=base256(-512)) + entry("x.png"), rest, False)
    yield "pax_times_of_text", Hostile(pax({"mtime": b"now", "uid": b"me"}) + entry("x.bin", picture), {})
    yield "pax_in_a_row", Hostile(pax({"comment": b"x"}) * 3000, {})
    yield "long_name_of_gigabytes", Hostile(entry("L", b"", b"L", size=4 << 30) + entry("x.png"), rest, False)
    yield "long_name_negative", Hostile(entry("L", b"", b"L", size=base256(-1)) + entry("x.png"), rest, False)
    yield "sparse_gnu", Hostile(entry("x.png", picture, b"S", at={386: b"00000000777\0" * 8}), {"x": SPARSE})
    yield "sparse_gnu_text", Hostile(entry("x.png", picture, b"S", at={386: b"text" * 24}), rest, False)
    yield "sparse_gnu_on_and_on", Hostile(entry("x.png", b"\xff" * 2048, b"S", at={482: b"\1"}),
                                          {"x": SPARSE} | rest, False)  # fmt: skip
    yield "sparse_pax_00", Hostile(pax({"GNU.sparse.numblocks": b"x", "GNU.sparse.offset": b"y"})
                                   + entry("x.png", picture), {"x": SPARSE})  # fmt: skip
    yield "sparse_pax_01", Hostile(pax({"GNU.sparse.map": b"one,two"}) + entry("x.png", picture), {"x": SPARSE})
    yield "sparse_pax_10", Hostile(pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0",
                                        "GNU.sparse.name": b"x.png"})
                                   + entry("GNUSparseFile.0/x.png", b"text\n" * 99), {"x": SPARSE})  # fmt: skip
    yield "link_to_nothing", Hostile(entry("x.png", kind=b"1", link=b"y.png"), {"x": LINK})
    ring = entry("x.png", kind=b"2", link=b"y.png") + entry("y.png", kind=b"1", link=b"x.png")
    yield "links_in_a_ring", Hostile(ring, {"x": LINK, "y": LINK})
    yield "link_to_itself", Hostile(entry("x.png", kind=b"1", link=b"x.png"), {"x": LINK})
    yield "link_out_of_the_tar", Hostile(entry("x.png", kind=b"2", link=b"../../etc/passwd"), {"x": LINK})
    yield "pipe", Hostile(entry("x.png", kind=b"6"), {"x": NO_FILE})
    yield "device", Hostile(entry("x.png", kind=b"3", at={329: b"0000001\0"}), {"x": NO_FILE})
    yield "folder", Hostile(entry("x.png/", kind=b"5") + entry("y.jpg", kind=b"5"), {})
    yield "type_unknown", Hostile(entry("x.png", picture, b"Q"), {"x": NO_FILE})
    yield "many_of_no_size", Hostile(b"".join(entry(f"e{n}.bin") for n in range(3000)), {})
    yield "second_archive", Hostile(END + entry("lost.png", picture), rest, False)
