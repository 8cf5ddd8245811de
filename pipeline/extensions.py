"""File name extensions of media, lower case, with the dot: what a scan takes and what a folder of frames may hold."""

__all__ = ["IMAGE_EXTENSIONS", "VIDEO_EXTENSIONS"]

# fmt: off
IMAGE_EXTENSIONS = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif",
])
# a GIF is decoded as a video: it may be animated, and a still one is a video of one frame
VIDEO_EXTENSIONS = frozenset([
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv", ".gif",
])
# fmt: on
