"""The rules of the house that a machine can check: arrows, light imports, one seam, the size budget.

ARCHITECTURE.md says why. A rule is changed there and here together.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bpetok", "lm", "cli")
PYTHON = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CORE = sorted([*(ROOT / "bpetok" / "csrc").glob("*.h"), *(ROOT / "bpetok" / "csrc").glob("*.cpp")])

MAY_IMPORT = {"bpetok": set(), "lm": {"bpetok"}, "cli": {"bpetok", "lm"}}
DOORS = {"bpetok/__main__.py", "lm/__main__.py"}  # the one exception: `python -m` calls the command line
HEAVY = {"torch", "numpy", "regex", "datasets", "matplotlib", "rich", "pooch", "transformers", "safetensors"}
LIGHT_IN_LM = {"lm/__init__.py", "lm/errors.py", "lm/models/__init__.py"}
SCRIPT = "bpetok/csrc/make_unicode_tables.py"  # the developers' own, not part of the package

FILE_LINES = {".py": 400, ".h": 150, ".cpp": 500}
FUNCTION_LINES = 60
FUNCTION_LINES_P90 = 35


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def top_level(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported."""
    return ast.Module([node for node in tree.body if not _for_types_only(node)], [])


def _for_types_only(node: ast.stmt) -> bool:
    in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return in_function or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_the_arrows_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    others = set(PACKAGES) - {package} - MAY_IMPORT[package]
    if name_of(path) in DOORS:
        others -= {"cli"}
    upward = {name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] in others}
    assert not upward


def test_models_know_neither_files_nor_bpetok_nor_the_optimizer() -> None:
    allowed = {"torch", "lm.errors", "lm.models", "math", "dataclasses", "typing", "abc", "importlib", "__future__"}
    for path in (ROOT / "lm" / "models").glob("*.py"):
        for name in imported(ast.parse(path.read_text())):
            assert any(name == one or name.startswith(f"{one}.") for one in allowed), (path.name, name)
            assert name != "torch.optim", path.name


LIGHT = [
    path
    for path in PYTHON
    if name_of(path) != SCRIPT and (not name_of(path).startswith("lm/") or name_of(path) in LIGHT_IN_LM)
]


@pytest.mark.parametrize("path", LIGHT, ids=name_of)
def test_bpetok_and_cli_import_nothing_heavy_before_it_is_needed(path: Path) -> None:
    names = {name.split(".")[0] for name in imported(top_level(ast.parse(path.read_text())))}
    assert not names & HEAVY


def test_nanobind_is_included_at_the_seam_alone_and_threads_in_one_file() -> None:
    includes = {path.name: set(re.findall(r"#include <([^>]+)>", path.read_text())) for path in CORE}
    seam = {"bindings.cpp", "counts_python.h", "documents_python.h", "from_python.h", "to_python.h"}
    assert {name for name, found in includes.items() if any("nanobind" in one for one in found)} == seam
    for path in CORE:
        if path.name not in seam:
            assert not re.search(r'#include "(from|to)_python.h"', path.read_text()), path.name
    assert [name for name, found in includes.items() if {"thread", "mutex", "atomic"} & found] == ["parallel.h"]


def test_the_core_never_prints_and_never_ends_the_process() -> None:
    for path in CORE:
        forbidden = re.findall(r"std::(?:cout|cerr|regex|exit|abort)|\bprintf\b|\bexit\(", path.read_text())
        assert not forbidden, path.name


def test_libraries_never_print_and_never_exit() -> None:
    for path in PYTHON:
        if path.relative_to(ROOT).parts[0] == "cli" or name_of(path) == SCRIPT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"print", "exit", "quit", "sys.exit", "os._exit"}, name_of(path)


def test_nothing_reads_or_writes_pickle() -> None:
    for path in PYTHON:
        names = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not names & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}, name_of(path)
        assert "torch.load(" not in path.read_text(), name_of(path)


def test_every_public_name_of_bpetok_is_exported_once_and_exists() -> None:
    import bpetok

    assert len(set(bpetok.__all__)) == len(bpetok.__all__)
    for name in bpetok.__all__:
        assert hasattr(bpetok, name)


# ---- the size budget: lines of code, without docstrings, comments and blanks -----------------------------------------


def python_lines(path: Path) -> set[int]:
    tree = ast.parse(path.read_text())
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = path.read_text().splitlines()
    return {
        number
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.strip().startswith("#") and number not in docstrings
    }


def core_lines(path: Path) -> int:
    return sum(1 for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("//"))


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_python_file_is_over_its_budget(path: Path) -> None:
    assert len(python_lines(path)) <= FILE_LINES[".py"]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_no_core_file_is_over_its_budget(path: Path) -> None:
    assert core_lines(path) <= FILE_LINES[path.suffix]


def function_sizes() -> dict[str, int]:
    sizes = {}
    for path in PYTHON:
        code = python_lines(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                span = range(node.lineno, (node.end_lineno or 0) + 1)
                sizes[f"{name_of(path)}:{node.lineno}:{node.name}"] = len(code & set(span))
    return sizes


def test_no_function_is_over_its_budget() -> None:
    sizes = sorted(function_sizes().items(), key=lambda item: item[1])
    assert sizes[-1][1] <= FUNCTION_LINES, sizes[-3:]
    assert sizes[len(sizes) * 9 // 10][1] <= FUNCTION_LINES_P90


def test_no_core_function_is_over_its_budget() -> None:
    for path in CORE:
        # A function ends at the first line that is a closing brace in its own column (the format is checked).
        for match in re.finditer(
            r"^( {0,4})[\w:<>&*~, ]+\([^;{}]*\)[^;{}]*\{\n(.*?)^\1\}", path.read_text(), re.M | re.S
        ):
            body = [line for line in match[2].splitlines() if line.strip() and not line.strip().startswith("//")]
            assert len(body) <= FUNCTION_LINES, (path.name, match[0].splitlines()[0])


def test_the_reference_stays_short_enough_to_teach() -> None:
    path = ROOT / "bpetok" / "reference.py"
    assert len(python_lines(path)) <= 300
    assert len(path.read_text().splitlines()) <= 376  # with both semantics of merging


def test_no_tracked_file_names_a_home_folder() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        text = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        assert not re.search(rb"(?:/home|/root|/Users)" + rb"/\w", text), name
        assert str(ROOT.parent).encode() + b"/" not in text, name
