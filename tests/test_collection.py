"""Every test file is collected: pytest's own list of folders to skip has "build" in it, and ours must not grow such an entry."""

from fnmatch import fnmatch
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_folder_of_tests_is_skipped(request):
    skipped = request.config.getini("norecursedirs")
    folders = {path.parent for path in TESTS.rglob("test_*.py")}
    assert TESTS / "pipeline" / "build" in folders
    lost = [str(f) for f in sorted(folders) for part in f.relative_to(TESTS).parts if any(fnmatch(part, p) for p in skipped)]
    assert lost == [], "norecursedirs in pyproject.toml keeps pytest from these"
