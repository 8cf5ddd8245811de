import io
import shutil
import sys

import joblib
import pytest

from d2st.cache.errors import WeightsError
from d2st.pipeline.faces import mtcnn_weights
from d2st.pipeline.faces.mtcnn_weights import load_mtcnn_weights


def test_digest_and_shapes_are_the_known_ones():
    weights = load_mtcnn_weights()
    assert weights.digest == "4fc64d898dbb755011e69a466b50aeb31224f811519bb51a1ee3eade504cbfef"
    shapes = [[tuple(layer.weight.shape) for layer in net] for net in (weights.pnet, weights.rnet, weights.onet)]
    assert shapes == [
        [(10, 3, 3, 3), (16, 10, 3, 3), (32, 16, 3, 3), (4, 32, 1, 1), (2, 32, 1, 1)],
        [(28, 3, 3, 3), (48, 28, 3, 3), (64, 48, 2, 2), (128, 576), (4, 128), (2, 128)],
        [(32, 3, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (128, 64, 2, 2), (256, 1152), (4, 256), (10, 256), (2, 256)],
    ]


def test_the_wheel_is_read_and_not_imported():
    load_mtcnn_weights()
    assert "mtcnn" not in sys.modules
    assert "tensorflow" not in sys.modules


def test_a_changed_file_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    for name in mtcnn_weights.SHA256:
        shutil.copy(mtcnn_weights._wheel_folder() / name, tmp_path)
    assert load_mtcnn_weights(tmp_path).digest == load_mtcnn_weights().digest

    class Trap:
        def __reduce__(self):
            return exec, ("raise SystemExit('unpickled')",)

    trap = io.BytesIO()
    joblib.dump(Trap(), trap)
    (tmp_path / "rnet.lz4").write_bytes(trap.getvalue())
    with pytest.raises(WeightsError, match=r"rnet\.lz4") as caught:
        load_mtcnn_weights(tmp_path)
    assert "pip install" in str(caught.value)


def test_missing_file_and_missing_wheel_say_what_to_install(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="pip install"):
        load_mtcnn_weights(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install"):
        load_mtcnn_weights()
