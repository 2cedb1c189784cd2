"""Tars of samples, read by offset, with webdataset's naming. Nothing in them is unpickled or run.

The files of one sample share a name up to the first dot of its last part; what comes after that dot is the suffix. They
need not follow one another, as webdataset wants it, unless a name comes several times: then each run of files that
follow one another is a sample.
"""

import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable
from typing import IO

from fluxflow.data.sources.headers import Damaged, Member, members
from fluxflow.data.sources.records import IMAGE_SUFFIXES, Unusable, printable, sample_key, unique
from fluxflow.errors import DataError

CUT = "cut off at the end of its shard"
REST = "rest of a damaged shard"
NEGATIVE = "file of a negative size"
SPARSE = "sparse file in a tar"
NO_FILE = "no regular file"
LINK = "link to no file of its shard"
DOTTED = "picture with a dot in its name"

File = tuple[int, int] | str  # offset and size, or why it cannot be read


class Tar:
    """The samples of one open tar.

    Of a tar that is cut off or damaged it shows what can be read, and one sample more, whose problem is `REST`.

    Args:
        file: the tar, seekable and with a file descriptor.
        name: what messages call it.
        wanted: whether members of a suffix (in lower case) are of use; others are passed over.

    Attributes:
        keys: the names of the samples in the order of their first files, made unique.
        problems: what is wrong with a sample, by its index.
        samples: how many of them come from files: all but the damaged rest.
        scattered: how many had files that did not follow one another.
        passed_over: members that are of no use, by suffix.

    Raises:
        DataError: if nothing can be read.
    """

    def __init__(self, file: IO[bytes], name: str, wanted: Callable[[str], bool]) -> None:
        self.name = name
        self.problems: dict[int, str] = {}
        self.scattered = 0
        self.passed_over: Counter[str] = Counter()
        self._file = file
        self._length = os.fstat(file.fileno()).st_size
        self._files: list[dict[str, File]] = []  # by suffix
        self._wanted = wanted
        self._links: list[tuple[str, dict[str, File], str]] = []  # target, files and suffix that it stands for
        self._dotted: list[str] = []
        stems: list[str] = []
        try:
            for member in members(file.fileno(), self._length):
                self._add(member, stems)
            damage = None
        except Damaged as error:
            damage = error
        if damage and not stems:
            raise DataError(f"Shard {name} is damaged or no uncompressed tar ({damage}): "
                            "make it again, or leave it out.")  # fmt: skip
        self._follow_links()
        stems = self._joined(stems)
        self._name_dotted(stems)
        self.samples = len(stems)
        if damage:
            self.problems[len(stems)] = REST
            stems.append(REST)
        taken: set[str] = set()
        self.keys = [unique(sample_key(stem), taken) for stem in stems]

    def suffixes(self, index: int) -> set[str]:
        """Those of the files of a sample, in lower case."""
        return set(self._files[index])

    def read(self, index: int, suffix: str, most: int) -> bytes:
        """The content of a file of a sample.

        Args:
            index: of the sample.
            suffix: of the file.
            most: bytes that are borne.

        Raises:
            Unusable: if it cannot be read, or is larger.
        """
        file = self._files[index][suffix]
        if isinstance(file, str):
            raise Unusable(file)
        offset, size = file
        if size > most:
            raise Unusable(f"file above {most >> 20} MiB")
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, member: Member, stems: list[str]) -> None:
        """Put a file to those of the sample before it, or begin a sample."""
        path = _path(member.name)
        folder, _, name = path.rpartition("/")
        base, _, suffix = name.partition(".")
        suffix = suffix.lower()
        if member.type == tarfile.DIRTYPE or not name:
            return
        if not base or not self._wanted(suffix):
            last = suffix.rpartition(".")[2]
            if base and last in IMAGE_SUFFIXES:
                self._dotted.append(path)
            self.passed_over[f".{printable(last)}" if last else ""] += 1
            return
        stem = f"{folder}/{base}" if folder else base
        if not stems or stem != stems[-1] or suffix in self._files[-1]:
            stems.append(stem)
            self._files.append({})
        self._files[-1][suffix] = self._file_of(member)
        if member.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            start = folder if member.type == tarfile.SYMTYPE else ""
            self._links.append((_path(f"{start}/{member.link}"), self._files[-1], suffix))

    def _file_of(self, member: Member) -> File:
        if member.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            return LINK
        if member.type not in tarfile.REGULAR_TYPES:  # pyright: ignore[reportAttributeAccessIssue]
            return NO_FILE
        if member.sparse:
            return SPARSE
        if member.size < 0:
            return NEGATIVE
        return CUT if member.offset + member.size > self._length else (member.offset, member.size)

    def _follow_links(self) -> None:
        """Look the targets of links up, in a second pass: they may be of any name, and stand anywhere."""
        if not self._links:
            return
        targets: dict[str, File] = dict.fromkeys((target for target, _, _ in self._links), LINK)
        try:
            for member in members(self._file.fileno(), self._length):
                path = _path(member.name)
                if path in targets and member.type in tarfile.REGULAR_TYPES:  # pyright: ignore[reportAttributeAccessIssue]
                    targets[path] = self._file_of(member)
        except Damaged:
            pass  # as the first pass knows
        for target, files, suffix in self._links:
            files[suffix] = targets[target]
        self._links.clear()

    def _joined(self, stems: list[str]) -> list[str]:
        """Make one sample of the runs of a name that hold no suffix twice, at the place of the first; returns names."""
        times = Counter(stems)
        if len(times) == len(stems):
            return stems
        files: dict[str, dict[str, File]] = {}
        twice: set[str] = set()
        for stem, run in zip(stems, self._files):
            if times[stem] > 1:
                together = files.setdefault(stem, {})
                if not together.keys().isdisjoint(run):
                    twice.add(stem)
                together |= run
        kept: list[tuple[str, dict[str, File]]] = []
        for stem, run in zip(stems, self._files):
            if times[stem] == 1 or stem in twice:
                kept.append((stem, run))
            elif stem in files:
                kept.append((stem, files.pop(stem)))
                self.scattered += 1
        self._files = [run for _, run in kept]
        return [stem for stem, _ in kept]

    def _name_dotted(self, stems: list[str]) -> None:
        """Reject pictures of names such as v1.5.jpg by name, unless there is a v1.jpg, whose companions they are."""
        whole = {stem for stem, run in zip(stems, self._files) if not run.keys().isdisjoint(IMAGE_SUFFIXES)}
        for path in self._dotted:
            folder, slash, name = path.rpartition("/")
            if folder + slash + name.partition(".")[0] not in whole:
                self.problems[len(stems)] = DOTTED
                stems.append(path.rpartition(".")[0])
                self._files.append({})
                last = path.rpartition(".")[2].lower()
                self.passed_over[f".{last}"] -= 1
        self.passed_over = +self.passed_over
        self._dotted.clear()


def _path(name: str) -> str:
    """A name of a tar as a path below its root: that of "./a" and "/a" is "a"."""
    return posixpath.normpath(f"/{name}").lstrip("/")
