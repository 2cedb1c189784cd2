"""Who imports whom, read from the source; `python -m tests.imports` prints how large the house is."""

import ast
import importlib.util
import sys
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "train.py", ROOT / "sample.py", *sorted((ROOT / "fluxflow").rglob("*.py"))]


# What these import on demand is for train.py.
TRAINING_COMMANDS = ("fluxflow.commands.build", "fluxflow.commands.hydra_app")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def statements(tree: ast.AST, on_demand: bool) -> list[ast.stmt]:
    """The import statements outside `if TYPE_CHECKING`; those of functions, which import on demand, with or without."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and (not on_demand or node.name == "__getattr__"):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        found += statements(node, on_demand)
    return found


@cache
def imports(module: str, on_demand: bool = True) -> frozenset[str]:
    """The modules that a module names, and for `from package import name` also package.name where that is a module."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), on_demand):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names} & set(MODULES)
    return frozenset(names)


def closure(module: str, on_demand: bool = True) -> set[str]:
    """Everything that is imported with a module, packages above it and what its imports import included."""
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
        named = imports(name, on_demand and name not in TRAINING_COMMANDS) if name in MODULES else set()
        waiting |= (parents | named) - seen
    return seen


def roots(names: set[str] | frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def foreign(module: str, on_demand: bool = True) -> set[str]:
    """The third-party packages that a module names."""
    return roots(imports(module, on_demand)) - set(sys.stdlib_module_names) - {"fluxflow"}


def inside(package: str) -> list[str]:
    """The modules of a package, or the module of that name."""
    found = [module for module in MODULES if f"{module}.".startswith(f"{package}.")]
    assert found, package
    return found


def circles() -> list[set[str]]:
    """The sets of modules that name each other, directly or through others; functions that import on demand count."""
    named = {module: imports(module) & set(MODULES) - {module} for module in MODULES}

    def reach(module: str) -> set[str]:
        seen, waiting = set(), set(named[module])
        while waiting:
            seen.add(name := waiting.pop())
            waiting |= named[name] - seen
        return seen

    reached = {module: reach(module) for module in MODULES}
    found = (frozenset(b for b in reached[a] if a in reached[b]) for a in MODULES)
    return [set(circle) for circle in dict.fromkeys(found) if circle]


def importers(package: str) -> set[str]:
    return {module for module in MODULES if package in foreign(module)}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions() -> list[tuple[int, str]]:
    """Length and name of every function and method."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                found.append((node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}: {node.name}"))
    return found


def main() -> None:
    """Print what a reader of one training step or of sample.py reaches, and the size of each room."""
    for module in ("fluxflow.training.vae", "fluxflow.training.flow", "sample"):
        ours = closure(module, on_demand=module == "sample") & set(MODULES)
        print(f"{module:24} reaches {sum(lines(MODULES[name]) for name in ours):6,} lines in {len(ours)} modules")
    rooms: Counter[str] = Counter()
    sources = [*FILES, *sorted((ROOT / "fluxflow").rglob("*.[ch]"))]
    for path in sources:
        rooms[path.relative_to(ROOT).parts[1] if len(path.relative_to(ROOT).parts) > 2 else "."] += lines(path)
    for room, count in rooms.most_common():
        print(f"{room:24} {count:6,} lines")
    print(f"{'in all':24} {sum(rooms.values()):6,} lines of Python and C in {len(FILES)} modules")
    print(f"{'circles of imports':24} {len(circles()):6}")
    for circle in circles():
        print("  " + " ".join(sorted(circle)))
    length, name = max(functions())
    print(f"{'longest function':24} {length:6} lines, {name}")


if __name__ == "__main__":
    main()
