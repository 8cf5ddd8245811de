"""What is installed is what stands in the tree: packages, data files, public names."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"cli": "d2st.cli", "pipeline": "d2st.pipeline", "cache": "d2st.cache", "adapter": "d2st.adapter"}
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
DATA_SUFFIXES = {".toml", ".json", ".typed", ".html", ".css", ".js"}


def installed_path(path):
    """Where a file of the tree lies below site-packages: cli/facade is d2st itself."""
    parts = path.relative_to(ROOT).parts
    return "/".join(("d2st", *(parts[2:] if parts[:2] == ("cli", "facade") else parts)))


def tree_files():
    files = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(files)


def module_names():
    names = (installed_path(path).removesuffix(".py").replace("/", ".") for path in tree_files() if path.suffix == ".py")
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def test_pyproject_lists_every_package():
    packages = {
        Path(installed_path(path)).parent.as_posix().replace("/", ".") for path in tree_files() if path.name == "__init__.py"
    }
    assert set(SETTINGS["packages"]) == packages
    assert SETTINGS["packages"] == sorted(SETTINGS["packages"])


def test_every_folder_with_code_is_a_package():
    assert {path.parent for path in tree_files() if path.suffix == ".py"} == {
        path.parent for path in tree_files() if path.name == "__init__.py"
    }


def test_git_ignores_no_package():
    patterns = {line.strip().rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    hidden = [path for path in tree_files() if patterns & set(path.relative_to(ROOT).parts)]
    assert hidden == [], "anchor the pattern with a slash in front"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy, so that no build folder is left in the tree."""
    copy = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    out = tmp_path_factory.mktemp("wheel")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_wheel_holds_the_tree_and_nothing_else(wheel):
    code = {name for name in wheel if ".dist-info/" not in name}
    assert code == {installed_path(path) for path in tree_files()}


def test_wheel_holds_the_licence_and_the_command(wheel):
    ends = {name.partition(".dist-info/")[2] for name in wheel}
    assert {"licenses/LICENSE", "entry_points.txt"} <= ends


def test_tree_holds_only_code_and_known_data():
    strange = [path for path in tree_files() if path.suffix != ".py" and path.suffix not in DATA_SUFFIXES]
    assert strange == []


@pytest.mark.parametrize("name", module_names())
def test_public_names_exist(name):
    module = import_module(name)
    public = getattr(module, "__all__", None)
    has_code = bool(Path(module.__file__).read_text(encoding="utf-8").strip())
    assert public is not None or not has_code or Path(module.__file__).name == "__init__.py", "every module says what is public"
    for item in public or ():
        assert hasattr(module, item), f"{name}.__all__ names {item}, which is not there"
    assert len(set(public or ())) == len(public or ())


def test_bare_room_names_are_never_imported():
    for name in module_names():
        import_module(name)
    assert not set(ROOMS) & set(sys.modules), "the rooms are d2st.cache and so on"
