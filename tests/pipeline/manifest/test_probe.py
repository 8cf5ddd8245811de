"""Probing: sizes as shown, unreadable files left empty and counted."""

import numpy as np
from PIL import Image

from d2st.pipeline.manifest import scan_folder
from d2st.pipeline.media.encode import write_h264


def test_probe_fills_what_headers_say(tmp_path):
    for folder in ("real/clip", "fake"):
        (tmp_path / folder).mkdir(parents=True)
    write_h264(tmp_path / "real" / "v.mp4", [np.zeros((48, 64, 3), np.uint8)] * 7, fps=12.5)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "fake" / "turned.jpg", exif=turned)
    Image.new("L", (31, 17)).save(tmp_path / "fake" / "grey.png")
    (tmp_path / "fake" / "text.mp4").write_text("no video")
    for number in range(3):
        Image.new("RGB", (8 + number, 8)).save(tmp_path / "real" / "clip" / f"{number}.png")

    scan = scan_folder(tmp_path, probe=True)
    rows = {path: rest for path, *rest in scan.manifest.select("path", "frames", "fps", "width", "height").iter_rows()}
    assert rows == {
        "real/v.mp4": [7, 12.5, 64, 48],
        "real/clip": [3, None, 8, 8],
        "fake/turned.jpg": [1, None, 20, 30],
        "fake/grey.png": [1, None, 31, 17],
        "fake/text.mp4": [None, None, None, None],
    }
    assert any(note.startswith("1 files could not be probed") for note in scan.notes)
