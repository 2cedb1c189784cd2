"""Where shards lie: local paths, http(s) URLs and what fsspec reaches; the index that prepare writes beside them."""

import itertools
import json
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import braceexpand

from fluxflow.data.sources.records import inventory
from fluxflow.errors import DataError

INDEX = "index.json"
MAX_SHARDS = 1_000_000  # that one name may stand for: ten times those of the largest public sets
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
HTTP = re.compile(r"https?://[^'\"`$\s]+$")
SCHEME = re.compile(r"(\w{2,}):")
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}  # fsspec's schemes that may be read, and the extra that each needs
PAUSES = (1, 5, 25)  # seconds before another try of what a server did not give


@dataclass(frozen=True)
class ShardFile:
    """One tar.

    Args:
        location: its path or URL.
        bytes: its size, where an index tells.
        samples: its samples, where an index tells.
        sha256: its hash, where an index tells.
    """

    location: str
    bytes: int | None = None
    samples: int | None = None
    sha256: str | None = None


def expand(urls: str | list[str]) -> list[ShardFile]:
    """Tars named by paths, URLs, {braces}, folders of tars, or a list of these.

    Raises:
        DataError: if one is missing or of another kind, or disagrees with the index beside it.
    """
    names = [urls] if isinstance(urls, str) else urls
    found = list(itertools.chain.from_iterable(_find(name) for name in itertools.chain(*map(_braces, names))))
    if not found:
        raise DataError("No shards are named: give a path, a {first..last} range, a folder of tars or a list.")
    return found


def is_remote(location: str) -> bool:
    """Whether a location is a URL."""
    return SCHEME.match(location) is not None


def open_file(shard: ShardFile) -> IO[bytes]:
    """Open a tar. A remote one is fetched whole into a temporary file that goes when it is closed.

    Raises:
        DataError: if it cannot be reached, or is not of the size that its index says.
    """
    try:
        file = _fetch(shard.location) if is_remote(shard.location) else open(shard.location, "rb")  # noqa: PTH123, SIM115
    except OSError as error:
        raise DataError(f"Shard {shard.location} is out of reach: {error}") from error
    size = file.seek(0, 2)
    file.seek(0)
    if shard.bytes is not None and size != shard.bytes:
        file.close()
        raise DataError(f"Shard {shard.location} has {size} bytes where its {INDEX} says {shard.bytes}: make it again, "
                        f"or remove the {INDEX}.")  # fmt: skip
    return file


def _braces(name: str) -> list[str]:
    if _names_at_most(name) > MAX_SHARDS:
        raise DataError(
            f"{name[:200]} names more than {MAX_SHARDS:,} shards: give a smaller range, or a folder of tars."
        )
    try:
        return list(braceexpand.braceexpand(name, escape=False))
    except (ValueError, RecursionError):
        raise DataError(f"The braces of {name[:200]} are not balanced: a range reads {{00..41}}.") from None


def _names_at_most(text: str) -> int:
    """A bound of what braces stand for, since braceexpand makes all names at once: their product, nested or not."""
    count, choices = 1, []
    for first, last, step in RANGE.findall(text):
        first, last, step = (int(number[:30] or 1) for number in (first, last, step))  # far above any bound
        count *= abs(last - first) // max(1, abs(step)) + 1
    for letter in text:
        if letter == "{":
            choices.append(1)
        elif letter == "," and choices:
            choices[-1] += 1
        elif letter == "}" and choices:
            count *= choices.pop()
        if count > MAX_SHARDS:
            break
    return count


def _find(name: str) -> list[ShardFile]:
    scheme = SCHEME.match(name)
    if scheme is not None:
        if not HTTP.match(name) and (scheme[1] not in EXTRAS or not name.startswith(f"{scheme[1]}://")):
            schemes = ", ".join(f"{known}://" for known in EXTRAS)
            raise DataError(f"{name} cannot be read: shards are local paths, or http://, https://, {schemes} URLs.")
        return [ShardFile(name)] if name.endswith(".tar") else _remote_folder(name.rstrip("/"))
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        held = inventory(path.parent.iterdir()) if path.parent.is_dir() else "nothing, it does not exist"
        raise DataError(f"There is no shard {path}; {path.parent} holds {held}.")
    known = {Path(shard.location).name: shard for shard in _indexed(path.parent)}
    return [known.get(path.name, ShardFile(str(path)))]


def _folder(folder: Path) -> list[ShardFile]:
    tars, indexed = sorted(folder.glob("*.tar")), _indexed(folder)
    if not tars:
        held = inventory(folder.iterdir())
        raise DataError(f"No *.tar in {folder}; it holds {held}. For plain pictures use data=folder.")
    if odd := [tar for tar in tars if not tar.is_file()]:  # a pipe would be waited for
        raise DataError(f"{odd[0]} is no regular file, or a link that leads nowhere: remove it.")
    if not indexed:
        return [ShardFile(str(tar)) for tar in tars]
    different = sorted({tar.name for tar in tars} ^ {Path(shard.location).name for shard in indexed})
    if different:
        raise DataError(f"{folder / INDEX} disagrees with its folder about {different[0]} ({len(different)} in all): "
                        f"make the shards again, or remove the {INDEX}.")  # fmt: skip
    return indexed


def _indexed(folder: Path) -> list[ShardFile]:
    path = folder / INDEX
    return _parse(path.read_bytes(), str(folder), str(path)) if path.is_file() else []


def _remote_folder(url: str) -> list[ShardFile]:
    """The tars of a remote folder: those that its index names, or else those that a file system lists."""
    try:
        with _fetch(f"{url}/{INDEX}") as file:
            return _parse(file.read(), url, f"{url}/{INDEX}")
    except OSError as error:
        if HTTP.match(url):
            raise DataError(f"{url} names no .tar, and its {INDEX} is out of reach ({error}): name the tars, for "
                            f"instance {url}/{{00000..00041}}.tar.") from None  # fmt: skip
    files, path = _filesystem(url)
    scheme = url.partition("://")[0]
    tars = sorted(f"{scheme}://{tar}" for tar in files.glob(f"{path}/*.tar"))
    if not tars:
        raise DataError(f"No *.tar in {url}.")
    return [ShardFile(tar) for tar in tars]


def _parse(text: bytes, folder: str, path: str) -> list[ShardFile]:
    try:
        rows = json.loads(text)["shards"]
        for row in rows:
            if not isinstance(row["name"], str) or "/" in row["name"]:
                raise ValueError(f"{row['name']!r} is no name of a file beside it")
        return [ShardFile(f"{folder}/{row['name']}", row["bytes"], row["samples"], row["sha256"]) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no index of shards ({type(error).__name__}: {error}): remove it.") from None


def _fetch(url: str) -> IO[bytes]:
    """The whole of a remote file, in a temporary file without a name. Raises OSError after the last try."""
    for pause in (*PAUSES, None):
        file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
        try:
            _copy(url, file)
            file.seek(0)
            return file
        except OSError as error:
            file.close()
            gone = isinstance(error, (FileNotFoundError, PermissionError)) or (
                isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
            )
            if pause is None or gone:
                raise
            time.sleep(pause)
    raise AssertionError


def _copy(url: str, file: IO[bytes]) -> None:
    if not HTTP.match(url):
        files, path = _filesystem(url)
        files.get_file(path, file)
        return
    with urllib.request.urlopen(url, timeout=60) as response:
        shutil.copyfileobj(response, file, 1 << 20)
        length = response.headers.get("Content-Length")
    if length is not None and file.tell() != int(length):
        raise OSError(f"the connection ended after {file.tell()} of {length} bytes")


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec.core  # here alone: plain paths and http need none

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f"{url} needs an extra that is not installed ({error}): "
                        f"pip install 'fluxflow[{EXTRAS[scheme]}]'.") from None  # fmt: skip
