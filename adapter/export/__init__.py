"""A trained detector as a file that runs without d2st's training code: ONNX, PyTorch's pt2, or a folder for a model hub."""
