"""Writing several files so that a reader, or a writer that is killed, never meets half of them."""

from pathlib import Path
from types import TracebackType


class AtomicFiles:
    """Files written beside their targets and moved over them together when the `with` block ends without an error.

    Example:
        with AtomicFiles() as files:
            files.target(folder / "config.json").write_text("{}")
    """

    def __init__(self) -> None:
        self._moves: list[tuple[Path, Path]] = []

    def target(self, path: Path) -> Path:
        """Return the file to write in place of `path`; the moves keep the order of these calls."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        self._moves.append((partial, path))
        return partial

    def __enter__(self) -> "AtomicFiles":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for partial, path in self._moves:
            if error is None:
                partial.replace(path)
            else:
                partial.unlink(missing_ok=True)
