"""`d2st cache build` where nothing more can be written: one clear message, exit code 1, and a store that the same command finishes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from d2st.pipeline.manifest import write_manifest

OPTIONS = (
    *("--backbone", "d2st-test", "--pretrained", "random:0", "--layers", "0,2", "--micro-batch", "8", "--detector", "none"),
    *("--frames", "4", "--crop-size", "16", "--device", "cpu", "--workers", "1"),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_media):
    """A manifest of 7 shards beside its media."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "media").mkdir()
    write_manifest(make_media(folder / "media", videos=1, images=26), folder / "m.parquet", root=folder / "media")
    return folder / "m.parquet"


@pytest.fixture
def run(server, manifest):
    """A function (store, *, command="build", **limits) -> what the command printed, and its exit code."""

    def run_cli(store, *, command="build", **limits):
        arguments = {
            "build": ["cache", "build", str(manifest), "--cache", str(store), *OPTIONS],
            "verify": ["cache", "verify", str(store), "--deep"],
            "info": ["cache", "info", str(store)],
        }
        return server.run({"job": "cli", "store": str(store), "arguments": arguments[command], "watch": False, **limits}).result

    return run_cli


@pytest.fixture(scope="module")
def whole(server, manifest, tmp_path_factory, harness):
    store = tmp_path_factory.mktemp("whole") / "s"
    arguments = ["cache", "build", str(manifest), "--cache", str(store), *OPTIONS]
    assert server.run({"job": "cli", "store": str(store), "arguments": arguments}).result["code"] == 0
    return harness.files_of(store)


def refused(result, *words):
    """Exit code 1, two lines (what is wrong, how to mend it) and no traceback."""
    assert result["code"] == 1, result
    lines = [line for line in result["err"].splitlines() if line and "samples/s" not in line and "frames/s" not in line]
    assert "Traceback" not in result["err"]
    assert lines[-2].startswith("error: "), result["err"]
    assert lines[-1].startswith("  fix: ")
    assert len([line for line in lines if line.startswith("error")]) == 1
    for word in words:
        assert word in lines[-2] + lines[-1]


@pytest.mark.parametrize(
    ("file_bytes", "full"),
    [(100, "zarr.json"), (3100, "manifest.parquet"), (8000, "tokens/.staging")],
)
def test_files_that_may_not_grow(run, whole, harness, tmp_path, file_bytes, full):
    """RLIMIT_FSIZE: a shard of crops is 3.2 kB, the manifest 7 kB, a shard of token maps 8.3 kB."""
    store = tmp_path / "s"
    refused(run(store, file_bytes=file_bytes), "no space left to write", full, "run the same command again")
    assert harness.left_behind(store) == []
    assert run(store)["code"] == 0
    assert harness.files_of(store) == whole


@pytest.mark.parametrize("room_kb", [24, 120])
def test_a_full_disk(run, whole, harness, tmp_path, room_kb):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"file systems can't be mounted here: {mounted.stderr.strip()}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes((8 << 20) - (room_kb << 10)))
        refused(run(disk / "s"), "no space left to write", str(disk / "s"), "run the same command again")
        shards = len(list((disk / "s").glob("tokens/ledger/*.parquet")))
        assert harness.left_behind(disk / "s") == []
        refused(run(disk / "s"), "no space left")
        assert len(list((disk / "s").glob("tokens/ledger/*.parquet"))) >= shards
        ballast.unlink()
        before = {path: path.stat().st_mtime_ns for path in (disk / "s").glob("*/ledger/*")}
        assert run(disk / "s")["code"] == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert harness.files_of(disk / "s") == whole
        assert run(disk / "s", command="verify")["code"] == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_can_only_be_read(run, whole, harness, tmp_path):
    store = tmp_path / "s"
    assert run(store)["code"] == 0
    assert harness.files_of(store) == whole
    (store / "tokens/ledger/000001.parquet").unlink()  # so that there is something to build
    folders = [store, *(path for path in store.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        refused(run(store, as_owner=True), "can't write", str(store), "ermission")
        assert run(store, command="verify", as_owner=True)["code"] == 1
        assert run(store, command="info", as_owner=True)["code"] == 0
    finally:
        for path in folders:
            path.chmod(0o755)
    assert run(store)["code"] == 0
    assert harness.files_of(store) == whole
    refused(run(Path("/proc/d2st/s")), "can't write", "/proc/d2st")


@pytest.mark.parametrize("at", [r"^fsync crops/staging/frames", r"^link tokens/ledger", r"^link claims/g0"])
def test_a_store_that_is_deleted_during_the_build(server, run, whole, harness, manifest, tmp_path, at):
    store = tmp_path / "s"
    arguments = ["cache", "build", str(manifest), "--cache", str(store), *OPTIONS]
    kill = {"match": at, "nth": 2, "when": "lose"}
    result = server.run({"job": "cli", "store": str(store), "arguments": arguments, "kill": kill}).result
    refused(result, str(store))
    shutil.rmtree(store, ignore_errors=True)
    assert run(store)["code"] == 0
    assert harness.files_of(store) == whole
