"""How strong each manipulation is: the one place to turn the corpus easier or harder.

Levels are grey levels of 255, lengths are pixels of the 256 px picture unless a name says otherwise; a pair is the range
that a clip draws from. Tuned so that a small adapter on a frozen random ViT learns the seen methods without being perfect.
Change a number, and CORPUS_VERSION of `plan` must go up: a finished corpus is reused by seed and version.
"""

__all__ = [
    "FLICKER_GAIN",
    "FLICKER_ROLL_DEG",
    "FLICKER_SCALE",
    "FLICKER_SHIFT_PX",
    "GENERATOR_BLUR_PX",
    "GENERATOR_NOISE",
    "LIPSYNC_BLUR_PX",
    "LIPSYNC_COLOUR",
    "MASK_SOFTNESS",
    "SEAM_HUE",
    "SEAM_LEVELS",
    "SEAM_WIDTH",
    "SMOOTH_LEVELS",
    "SMOOTH_OPACITY",
    "SMOOTH_RADIUS_PX",
    "SWAP_COLOUR",
    "SWAP_CONTRAST",
    "SWAP_LAMP",
    "UPSAMPLE_CELLS",
    "UPSAMPLE_CHECKER",
    "UPSAMPLE_NEAREST",
]

# every re-rendered region: what a generator loses against the camera's picture (shared by swap and lipsync)
GENERATOR_BLUR_PX = (0.6, 1.1)
GENERATOR_NOISE = (0.0, 0.4)  # of the camera's noise
MASK_SOFTNESS = (1.5, 5.0)  # sigma of the blending edge, canvas px

# overshoot of the blend (as Laplacian and Poisson blending leave it): brighter just inside the edge, darker just outside, so
# that the mean level stays; levels at the peak, and each channel's share of them
SEAM_LEVELS = {
    "swap": (10.0, 16.0),
    "flicker": (0.0, 2.0),  # next to nothing: this one is for clips to find
    "lipsync": (9.0, 14.0),
    "upsample": (7.0, 12.0),
    "smooth": (9.0, 15.0),
}
SEAM_HUE = (1.3, 0.6, 1.1)  # red, green, blue: blending in another colour space leaves a tint too
SEAM_WIDTH = 13.0  # sigma, canvas px

# swap: the inner face of another identity
SWAP_COLOUR = 7.0  # deviation of what colour matching leaves, a channel
SWAP_CONTRAST = 0.10  # deviation of the contrast ratio
SWAP_LAMP = 0.25  # how far the donor's light may turn away

# flicker: independent from frame to frame, deviations
FLICKER_SHIFT_PX = (0.8, 1.6)
FLICKER_ROLL_DEG = (0.4, 0.9)
FLICKER_SCALE = (0.006, 0.014)
FLICKER_GAIN = (0.05, 0.09)

# lipsync: the mouth re-rendered to another speech signal
LIPSYNC_BLUR_PX = (1.0, 1.8)
LIPSYNC_COLOUR = 7.0

# upsample (test only): the inner face from a small grid of cells
UPSAMPLE_CELLS = (100, 128)  # over the canvas (320 px), so a cell is about 2 to 2.5 px of the picture
UPSAMPLE_CHECKER = (0.015, 0.04)  # of the local level
UPSAMPLE_NEAREST = 0.5  # share of nearest-neighbour enlargement, the rest is bilinear

# smooth (test only): edge-preserving filter
SMOOTH_RADIUS_PX = 3.0
SMOOTH_LEVELS = 26.0
SMOOTH_OPACITY = (0.8, 1.0)
