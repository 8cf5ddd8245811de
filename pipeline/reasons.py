"""Reason codes: why a sample is not in the cache. They are stored in ledgers and shown in tables, so they never change meaning."""

__all__ = ["REASONS"]

REASONS: dict[str, str] = {
    # the file
    "missing": "the file does not exist",
    "unreadable": "the file can't be opened (permissions, or a device error)",
    "empty": "the file has no bytes, or the folder no frames",
    "not_media": "the content is neither an image nor a video that any decoder knows",
    "no_video_stream": "a media file without pictures, such as audio alone",
    "too_large": "the header claims more pixels or frames than d2st accepts",
    "duplicate": "byte for byte the same file as an earlier sample",
    # decoding
    "truncated": "the file ends before its first complete picture",
    "decode_failed": "no decoder could read the frames that were asked for",
    "decoder_crashed": "the decoding process died on this file",
    "timeout": "decoding took longer than the file's deadline",
    # faces
    "no_face": "no face was found in any sampled frame",
    "bad_faces": "the faces that the manifest or a sidecar gives for it make no sense",
    "face_lost": "no single face could be followed through the sampled frames",
}
