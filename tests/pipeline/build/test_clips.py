"""Media to clips as a stream: CLIP shared by all files without a bit of difference, results as they come, and nothing left behind."""

import gc
import threading
import time

import numpy as np
import pytest
from PIL import Image

from d2st.cache.errors import FingerprintError, MediaError, WeightsError
from d2st.pipeline.build.clips import ClipClocks, ClipEvent, FileEnd
from d2st.pipeline.build.crop import CropSettings, crop_frames, declared_crops
from d2st.pipeline.build.restore import FrontEnd, restore_cropping
from d2st.pipeline.clip import Encoder, Tokens, load_backbone
from d2st.pipeline.faces import build_detector
from d2st.pipeline.faces.detections import make_detections
from d2st.pipeline.media import read_media
from d2st.pipeline.media.encode import write_h264


class Squares:
    """Finds the upright squares of pure red and pure green, "faces" of which the red one is larger."""

    name, digest = "squares", ""

    def detect(self, images):
        found = []
        for image in images:
            boxes = []
            for channel in (0, 1):
                others = np.delete(image, channel, axis=2).max(axis=2)
                rows, columns = np.nonzero((image[..., channel] > 150) & (others < 100))
                if len(rows):
                    boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            found.append(make_detections(boxes, [0.9] * len(boxes)))
        return found


@pytest.fixture(scope="module")
def encoder():
    return Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ["block_0", "block_2"], micro_batch=4)


@pytest.fixture(scope="module")
def front(encoder):
    """T = 3, ready-made crops of 32 px."""
    return FrontEnd(build_detector("none"), CropSettings(frames=3, size=32), encoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a video of 9 frames at 3 a second, a long one (60 frames, 20 s) in which two squares move, and what is no media."""
    root, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for k in range(9):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(root / f"{k}.png")
    write_h264(root / "short.mp4", random.integers(0, 256, (9, 48, 48, 3), np.uint8), fps=3)

    def scene(k):
        frame = np.full((96, 256, 3), 60, np.uint8)
        if not 24 <= k < 36:  # two windows without a face
            frame[20:60, 8 + 2 * k : 48 + 2 * k] = (255, 0, 0)
            frame[62:92, 200 - 2 * k : 230 - 2 * k] = (0, 255, 0)
        return frame

    write_h264(root / "long.mp4", [scene(k) for k in range(60)], fps=3)
    (root / "text.mp4").write_text("no video")
    return root


def kinds(folder, *names):
    return [(str(folder / name), "image" if name.endswith("png") else "video") for name in names]


def clips_of(events):
    return [event for event in events if isinstance(event, ClipEvent)]


def test_what_shares_the_micro_batches_has_the_bits_it_has_alone(front, encoder, folder):
    names = ["0.png", "short.mp4", "1.png", "missing.png", "2.png", "text.mp4", "3.png", "4.png", "short.mp4", "5.png"]
    clocks = ClipClocks()
    events = list(front.encode_clips(kinds(folder, *names), workers=1, clocks=clocks))
    assert [event.file for event in events] == sorted(event.file for event in events)
    ends = [event for event in events if isinstance(event, FileEnd)]
    assert [end.error.reason if end.error else None for end in ends] == [
        None, None, None, "missing", None, "not_media", None, None, None, None,
    ]  # fmt: skip
    assert [event.file for event in clips_of(events)] == [0, 1, 2, 4, 6, 7, 8, 9]
    for event in clips_of(events):
        path, kind = kinds(folder, names[event.file])[0]
        crops, info = crop_frames(read_media(path, kind, frames=3, sampling="even"), front.detector, front.settings)
        np.testing.assert_array_equal(event.clip.crops, crops)
        assert event.clip.info == info
        alone = encoder.encode(crops)
        assert event.clip.tokens.arrays.keys() == alone.arrays.keys()
        for name, values in alone.arrays.items():
            np.testing.assert_array_equal(event.clip.tokens.arrays[name], values)
    assert ends[0] == FileEnd(0, None, None, 1, windowed=False)
    assert ends[1] == FileEnd(1, None, pytest.approx(3.0), 9, windowed=False)
    assert min(clocks.decode.busy_s, clocks.faces.busy_s, clocks.clip.busy_s) > 0


def test_few_micro_batches_serve_many_images(folder):
    """Nine images alone would be nine micro-batches of four."""
    encoder = Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ["block_2"], micro_batch=4)
    sizes, encode = [], encoder.encode
    encoder.encode = lambda crops: sizes.append(len(crops)) or encode(crops)
    front = FrontEnd(build_detector("none"), CropSettings(frames=3, size=32), encoder)
    assert len(list(front.encode_clips(kinds(folder, *(f"{k}.png" for k in range(9))), workers=1))) == 18
    assert sum(sizes) == 9
    assert sum(-(-size // 4) for size in sizes) <= 4


def test_what_was_handed_on_is_held_no_longer(front, folder):
    """Token maps of a long input are as many at its end as at its beginning."""
    files = ((str(folder / f"{k % 9}.png"), "image") for k in range(160))
    held = [
        sum(type(each) is Tokens for each in gc.get_objects())
        for number, _ in enumerate(front.encode_clips(files, workers=1))
        if number % 32 == 31
    ]
    assert max(held[len(held) // 2 :]) < 30, held  # 160 clips in 40 batches


def test_windows_of_a_long_video(folder):
    front = FrontEnd(Squares(), CropSettings(frames=3, size=32), None)
    *events, end = front.encode_clips(kinds(folder, "long.mp4"), window_s=2.0, workers=1)
    assert end == FileEnd(0, None, pytest.approx(20.0), 60, windowed=True)
    assert [(e.start_s, e.end_s) for e in events] == [(2.0 * k, pytest.approx(2.0 * k + 2)) for k in range(10)]
    for k, event in enumerate(events):
        if k in (4, 5):
            assert isinstance(event.clip, MediaError)
            assert event.clip.reason == "no_face"
            continue
        clip = event.clip
        assert (clip.crops.shape, clip.tokens, clip.track) == ((3, 32, 32, 3), None, 1)
        assert clip.info["indices"] == [6 * k + j for j in (1, 3, 5)]
        assert clip.timestamps_s == pytest.approx([index / 3 for index in clip.info["indices"]], abs=1e-5)
        for index, box, matrix in zip(clip.info["indices"], clip.boxes, clip.matrices, strict=True):
            np.testing.assert_allclose(box, [8 + 2 * index, 20, 48 + 2 * index, 60], atol=2)
            place = matrix @ [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1]
            assert (abs(place - 16) < 5).all()


def test_all_faces_keep_their_numbers_through_the_windows(folder):
    front = FrontEnd(Squares(), CropSettings(frames=3, size=32), None)
    events = clips_of(front.encode_clips(kinds(folder, "long.mp4", "long.mp4"), window_s=2.0, all_faces=True, workers=2))
    for number in (0, 1):
        found = [e for e in events if e.file == number and not isinstance(e.clip, MediaError)]
        for k, first, second in ((k, 1, 2) if k < 4 else (k, 3, 4) for k in (0, 1, 2, 3, 6, 7, 8, 9)):
            here = {e.clip.track: e.clip for e in found if e.start_s == 2.0 * k}
            assert here.keys() == {first, second}  # who was away for two windows is new
            red, green = here[first], here[second]
            assert red.crops[:, 16, 16, 0].min() > 150
            assert green.crops[:, 16, 16, 1].min() > 150


def test_a_file_comes_while_the_next_one_is_not_known_yet(front, folder):
    go_on = threading.Event()

    def typed():
        yield from kinds(folder, "0.png")
        assert go_on.wait(20)
        yield from kinds(folder, "1.png")

    events = front.encode_clips(typed(), workers=1)
    assert isinstance(next(events).clip.crops, np.ndarray)
    assert isinstance(next(events), FileEnd)
    go_on.set()
    assert [event.file for event in events] == [1, 1]


def test_leaving_early_leaves_no_thread_though_the_input_blocks(front, folder, threads_left):
    never = threading.Event()

    def typed():
        yield from kinds(folder, "0.png", "1.png", "long.mp4")
        never.wait(60)
        yield from ()

    events = front.encode_clips(typed(), window_s=0.7, workers=1)
    next(events)
    events.close()
    assert set(threads_left()) <= {"d2st-files"}
    never.set()
    end = time.monotonic() + 5
    while threads_left():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_the_input_raises_arrives(front, folder):
    def broken():
        yield from kinds(folder, "0.png")
        raise OSError("the list can't be read")

    with pytest.raises(OSError, match="the list"):
        list(front.encode_clips(broken(), workers=1))


def test_the_way_to_crops_is_restored_without_a_backbone():
    settings = CropSettings(frames=3, sampling="clip", size=48, margin_ratio=1.1)
    declared = declared_crops(settings, build_detector("none"))
    found = restore_cropping(declared)
    assert (found.settings, found.encoder, found.detector.name) == (settings, None, "none")
    with pytest.raises(FingerprintError):
        restore_cropping({**declared, "version": 0})
    with pytest.raises(WeightsError, match="not those"):
        restore_cropping({**declared, "detector_digest": "0" * 64})
