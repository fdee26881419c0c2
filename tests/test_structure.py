"""The structure that docs/design.md draws: imports in one direction, small folders, functions."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "attattr_jax"
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip("."): (
        file,
        ast.parse(file.read_text(encoding="utf-8")),
    )
    for file in sorted(PACKAGE.rglob("*.py"))
}
# Folders of one line do not import each other; "" is attattr_jax/__init__.py, which with the next
# two has the public names.
ORDER = (
    {"errors"},
    {"runtime"},
    {"models"},
    {"data", "attribution"},
    {"views", "training"},
    {"explanations", "pruning"},
    {"commands"},
    {"", "plots", "export"},
)
MOST_MODULES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 11, 480, 60


def imports_of(name):
    """Return the modules of the package that a module imports, also inside functions."""
    file, tree = MODULES[name]
    package = file.parent.relative_to(PACKAGE).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("attattr_jax") for alias in node.names), name
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert not (node.module or "").startswith("attattr_jax"), f"{name}: import relatively"
        if isinstance(node, ast.ImportFrom) and node.level:
            parent = package[: len(package) - node.level + 1]
            base = ".".join([*parent, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".strip(".")
                yield whole if whole in MODULES else base


def rank(name):
    (number,) = (number for number, folders in enumerate(ORDER) if name.split(".")[0] in folders)
    return number


def test_imports_point_one_way():
    for name in MODULES:
        for other in imports_of(name):
            same_folder = name.split(".")[0] == other.split(".")[0]
            assert same_folder or rank(other) < rank(name), f"{name} imports {other}"


def test_no_module_imports_itself_in_a_circle():
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            path.append(name)
            for other in set(imports_of(name)) - {name}:
                visit(other)
            done.add(path.pop())

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file, _ in MODULES.values()}), ids=lambda folder: folder.name
)
def test_a_folder_has_few_modules_of_few_lines(folder):
    modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
    for file in modules:
        num_lines = len(file.read_text(encoding="utf-8").splitlines())
        assert num_lines <= MOST_LINES, f"{file} has {num_lines} lines"


def test_functions_are_short():
    for name, (_, tree) in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                num_lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node):
                    num_lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                assert num_lines <= MOST_LINES_OF_A_FUNCTION, f"{name}.{node.name}: {num_lines}"
