"""Small trees of the published data sets: their folders, names and lists, with files that hold their own path."""

import pytest

from d2st.pipeline.manifest import scan_folder


@pytest.fixture
def tree(tmp_path):
    """`tree(path, ...)` makes files below `tree.root`."""

    def make(*paths):
        for path in paths:
            (make.root / path).parent.mkdir(parents=True, exist_ok=True)
            (make.root / path).write_bytes(path.encode())

    make.root = tmp_path / "set"
    make.root.mkdir()
    return make


@pytest.fixture
def scan(tree):
    """Scans the tree, or a list in it; gives the scan and its rows by path."""

    def run(source=None, **options):
        made = scan_folder(source or tree.root, **options)
        return made, {row["path"]: row for row in made.manifest.iter_rows(named=True)}

    return run
