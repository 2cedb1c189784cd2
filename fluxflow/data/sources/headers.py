"""The members of a tar, header by header, whatever a stranger wrote into them.

`tarfile` reads one block here; what goes on from block to block is ours, since its own way believes every number: a
member may claim to end before it begins, or to be described by a name of gigabytes. Here the position grows with each
header, no more than `MAX_DESCRIPTION` bytes of a description are read, and nothing of a member's content.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE
MAX_DESCRIPTION = 1 << 20  # bytes of a pax header or of a GNU long name
MAX_NAME = 4096  # characters, Linux's limit of a path
TAIL = 1 << 20  # bytes behind the end-of-archive mark in which another archive is looked for
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")  # of a pax header; the number counts the whole record


class Damaged(Exception):
    """A tar that cannot be read from some header on; the message says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """What one header says.

    Args:
        name: path in the tar, as it is written there; bytes that are no UTF-8 are surrogates.
        type: one of tarfile's.
        offset: where its content begins, in bytes.
        size: of its content in bytes, which may be more than there is, or negative.
        link: what it is a link to.
        sparse: whether the content lacks the holes of a file.
    """

    name: str
    type: bytes
    offset: int
    size: int
    link: str
    sparse: bool


def members(descriptor: int, length: int) -> Iterator[Member]:
    """The members of an uncompressed tar, in stored order.

    Args:
        descriptor: of the open file.
        length: of the file in bytes.

    Raises:
        Damaged: where it ends without its mark, or holds no header where one is due.
    """
    at, described = 0, {}
    while (header := _header(descriptor, at)) is not None:
        content, size = at + BLOCK, header.size
        if header.type in PAX:
            described |= _pax(_description(descriptor, content, size))
        elif header.type in LONG:
            described[LONG[header.type]] = _description(descriptor, content, size).partition(b"\0")[0]
        elif header.type != tarfile.XGLTYPE:  # which describes all that follow, and says nothing that is of use here
            member = _member(descriptor, header, content, described)
            yield member
            described = {}
            content, size = member.offset, member.size if _has_content(member.type) else 0
        if size < 0 or content + size > length:
            raise Damaged(f"a member of {size} bytes where {length - content} are left")
        at = content + -(-size // BLOCK) * BLOCK
    if _goes_on(os.pread(descriptor, TAIL, at)):
        raise Damaged("another tar behind its end: such files were joined without tar --concatenate")


def _header(descriptor: int, at: int) -> tarfile.TarInfo | None:
    """The header at an offset; None for the end-of-archive mark."""
    try:
        return tarfile.TarInfo.frombuf(os.pread(descriptor, BLOCK, at), "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        raise Damaged(str(error)) from None


def _member(descriptor: int, header: tarfile.TarInfo, content: int, described: dict[str, bytes]) -> Member:
    sparse = header.type == tarfile.GNUTYPE_SPARSE or any(name.startswith("GNU.sparse.") for name in described)
    if header.type == tarfile.GNUTYPE_SPARSE:
        more, flag = os.pread(descriptor, BLOCK, content - BLOCK), 482  # more blocks of its map follow
        while len(more) == BLOCK and more[flag]:
            more, flag, content = os.pread(descriptor, BLOCK, content), 504, content + BLOCK
    size = described.get("size", b"%d" % header.size)
    if not re.fullmatch(rb"-?\d{1,30}", size):
        raise Damaged("a size that is no number")
    name, link = (
        described[key].decode("utf-8", "surrogateescape") if key in described else given
        for key, given in (("GNU.sparse.name" if "GNU.sparse.name" in described else "path", header.name),
                           ("linkpath", header.linkname))
    )  # fmt: skip
    return Member(name[:MAX_NAME], header.type, content, int(size), link[:MAX_NAME], sparse)


def _has_content(kind: bytes) -> bool:
    """Whether blocks of content follow a header; a type that nobody knows counts as a file, as for tar."""
    return kind in tarfile.REGULAR_TYPES or kind not in tarfile.SUPPORTED_TYPES  # pyright: ignore[reportAttributeAccessIssue]


def _description(descriptor: int, at: int, size: int) -> bytes:
    if not 0 <= size <= MAX_DESCRIPTION:
        raise Damaged(f"a description of {size} bytes")
    return os.pread(descriptor, size, at)


def _pax(content: bytes) -> dict[str, bytes]:
    """The records of a pax header."""
    records, at = {}, 0
    while at < len(content) and content[at]:
        found = RECORD.match(content, at)
        end = at + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(content):
            raise Damaged("a pax header that is none")
        records[found[2].decode("utf-8", "replace")] = content[found.end() : end - 1]
        at = end
    return records


def _goes_on(tail: bytes) -> bool:
    """Whether the header of a further archive stands in a block."""
    return any(tail[at + 257 : at + 262] == b"ustar" for at in range(0, len(tail), BLOCK))
