"""Finding models and checkpoints in run folders: `outputs/<stage>/<date>_<time>/{model/,checkpoints/}`.

Without torch, so that commands can name their run folder, or refuse one, at once.
"""

from collections.abc import Iterable
from pathlib import Path

from fluxflow.errors import CheckpointError

INDEX = "model_index.json"
LAST = Path("checkpoints") / "last.ckpt"
BEST = LAST.with_name("best.ckpt")
PUBLISHED_WEIGHTS = ("flxflow_final.safetensors", "model.safetensors")  # of the published package: the first counts
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def is_published(path: str | Path | None) -> bool:
    """Return whether `path` looks like a checkpoint of the published package: weights without an index of ours."""
    if path is None or enclosing(path) is not None:
        return False
    path = Path(path)
    if path.is_file():
        return path.suffix in (".safetensors", *PICKLES)
    if not path.is_dir() or (path / INDEX).is_file() or (path / "model" / INDEX).is_file():
        return False
    return any(file.name in PUBLISHED_WEIGHTS or file.suffix in PICKLES for file in path.iterdir())


def check_model(path: str | Path | None) -> None:
    """Refuse a path that holds neither a model of ours nor a published checkpoint, as `find_model` does."""
    if not is_published(path):
        find_model(path)


def enclosing(path: str | Path) -> tuple[str, Path] | None:
    """Return "run" or "model", and the folder of the one of which `path` is a checkpoint or component, or else None."""
    path = Path(path)
    if not path.exists():
        return None
    for folder in reversed(list(path.absolute().parents)[:3]):  # a component's file in a run is three levels down
        part = path.absolute().relative_to(folder).parts[0]
        if part in (LAST.parent.name, "model") and ((folder / "model" / INDEX).is_file() or (folder / LAST).is_file()):
            if path.absolute() != (folder / "model"):
                return "run", folder
        elif (folder / INDEX).is_file() and f'"{part}"' in (folder / INDEX).read_text(encoding="utf-8"):
            return "model", folder
    return None


def find_model(path: str | Path | None) -> Path:
    """Return the model folder that `path` is, or that the run folder `path` holds; None asks for a helpful refusal.

    Raises:
        CheckpointError: there is none; the message names what was looked for and models nearby.
    """
    if path is None:
        raise CheckpointError(f"No run or model folder is given. {nearby_models(Path('outputs'))}")
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / INDEX).is_file():
            return folder
    if whole := enclosing(path):
        part = "file" if path.is_file() else "folder"
        raise CheckpointError(f"{path} is a {part} of a {whole[0]}: give the {whole[0]}'s folder, {shown(whole[1])}.")
    if not path.exists():
        found = f"There is no {path}."
    elif path.is_file():
        found = f"{path} is a file; give the run's or the model's folder."
    else:
        found = f"{path} holds no model: neither {INDEX} nor model/{INDEX} is there."
        if (path / "checkpoints").is_dir():
            found += " It is a run that has not written its model yet."
    raise CheckpointError(f"{found} {nearby_models(path)}")


def nearby_models(path: Path, limit: int = 3) -> str:
    """Return a sentence that names the newest runs with a model, beside `path` and in outputs/."""
    roots = [path.parent, path.parent.parent, Path("outputs")]
    indices = {index for root in roots for depth in ("*", "*/*") for index in root.glob(f"{depth}/model/{INDEX}")}
    newest = sorted(indices, key=lambda index: index.stat().st_mtime, reverse=True)[:limit]
    if not newest:
        return "No run with a model was found nearby."
    return f"The newest runs with a model: {', '.join(str(index.parent.parent) for index in newest)}."


def find_checkpoint(resume: str | Path | None, run_dir: str | Path) -> Path | None:
    """Return the first of `find_checkpoints`, or None for a start from scratch."""
    return next(iter(find_checkpoints(resume, run_dir)), None)


def find_checkpoints(resume: str | Path | None, run_dir: str | Path) -> list[Path]:
    """Return the checkpoints from which a run can go on, the one to prefer first; none for a start from scratch.

    Args:
        resume: None, a checkpoint, a run folder (its last checkpoint, or else its best), or "auto": the same of
            `run_dir`, if it has one.
        run_dir: the folder of the run that starts.

    Raises:
        CheckpointError: a path was given and holds no checkpoint.
    """
    if resume is None:
        return []
    path = Path(run_dir if str(resume) == "auto" else resume)
    whole = enclosing(path)
    of_model = whole is not None and path.suffix != LAST.suffix and path.name != LAST.parent.name
    if of_model or path.suffix == ".safetensors" or (path / INDEX).is_file():
        run = whole[1] if whole else path.absolute().parent
        near = f", {shown(run)}" if (run / LAST).is_file() else ""
        raise CheckpointError(f"resume: {path} is a model, without what training needs: give the run's folder{near}.")
    if path.is_file():
        return [path]
    found = [file for file in (path / LAST, path / BEST, path / LAST.name, path / BEST.name) if file.is_file()]
    if found or str(resume) == "auto":
        return found
    what = f"{path} holds no {LAST}" if path.is_dir() else f"there is no {path}"
    raise CheckpointError(f"resume: {what}. Give a run folder, a .ckpt file, or resume=auto.")


def newest_run(folders: Iterable[Path]) -> Path | None:
    """Return the one of some folders in which a checkpoint was saved last, None where none has one."""
    kept = [(folder, folder / name) for folder in folders for name in (LAST, BEST)]
    saved = {file.stat().st_mtime_ns: folder for folder, file in kept if file.is_file()}
    return saved[max(saved)] if saved else None


def shown(folder: Path) -> Path:
    """Return a folder as a user would name it, relative to the working directory where it lies below that."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def remove_if_empty(run_dir: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything."""
    if run_dir.is_dir() and run_dir != Path.cwd() and not any(run_dir.iterdir()):
        run_dir.rmdir()
