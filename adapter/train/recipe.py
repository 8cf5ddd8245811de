"""A stage's recipe: few knobs, each with its meaning, unit and range. `recipe_file` reads and writes them as TOML.

Pydantic stays at this edge: the trainer takes a `Recipe` apart and hands plain arguments on. Unknown keys are refused, because a misspelt
knob that is silently ignored costs a night of training.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

__all__ = ["STAGES", "Adapter", "Align", "Augment", "Data", "Loss", "Mix", "Optim", "Recipe"]

STAGES = (1, 2, 3)
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Mix(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Relative shares among the training samples; where an axis is given, a value that it does not name is left out."""

    dataset: dict[str, Share] = Field(default_factory=dict, description="data set -> share")
    label: dict[Literal["real", "fake"], Share] = Field(default_factory=dict, description="real, fake -> share")
    kind: dict[Literal["image", "video"], Share] = Field(default_factory=dict, description="image, video -> share")


class Data(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Which rows of the cache a stage sees."""

    frames: int = Field(ge=1, le=256, description="T, frames a clip; 1 shows single frames")
    kinds: tuple[Literal["image", "video"], ...] = Field(
        min_length=1, description="what to train on; frame folders count as video"
    )
    max_samples: int = Field(0, ge=0, description="training samples to keep at most, chosen by seed; 0 keeps all")
    mix: Mix = Field(default_factory=Mix, description="shares of data sets, labels and kinds among them; as they come if empty")
    views: tuple[str, ...] = Field(
        (),
        description="token sets of the same crops, the opened one among them; each epoch draws one of them for each sample",
    )
    balance: Literal["label", "none"] = Field(
        "label", description="label: both labels are drawn equally often; none: as they come"
    )
    shuffle_labels: bool = Field(False, description="sanity control: permute the labels that training sees; must give chance")
    allow_identity_overlap: bool = Field(False, description="train although an identity appears in two splits")


class Adapter(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Which network reads the token maps."""

    name: str = Field("d2st", description="a registered adapter")
    layers: Literal["all", "four", "last"] | tuple[str, ...] = Field(
        "all", description="cached layers to read, by name; or all, four evenly spaced ones up to the last, or the last"
    )
    params: dict[str, Any] = Field(default_factory=dict, description="the adapter's own parameters")


class Optim(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """AdamW with warm-up and cosine decay."""

    lr: float = Field(gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="AdamW, on matrices only; norms, biases and gates have none")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of all steps in which the rate climbs")
    epochs: int = Field(ge=1, description="passes over the samples")
    batch_size: int = Field(ge=1, description="clips of one kind in a batch")
    accumulate: int = Field(1, ge=1, description="batches a step")
    clip_norm: float = Field(1.0, ge=0, description="gradient norm limit; 0 is off")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights that are scored and kept; 0 is off")
    patience: int = Field(0, ge=0, description="epochs without a better validation AUC before stopping; 0 is off")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of products in training; auto: bfloat16 on CUDA and on CPUs that multiply it natively"
    )
    rates: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="learning-rate factor of the parameters with this in their name"
    )


class Loss(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Classification."""

    kind: Literal["bce", "focal", "balanced"] = Field(
        "bce", description="cross-entropy, focal loss, or cross-entropy weighted by the inverse frequency of the label"
    )
    gamma: float = Field(2.0, ge=0, description="of the focal loss")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that moves to one half")
    frame_weight: float = Field(0.3, ge=0, description="weight of the per-frame logits beside the clip's")


class Augment(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Feature-space augmentation; 0 switches each off."""

    frame_drop: float = Field(0.0, ge=0, lt=1, description="probability that a frame of a clip is left out; half of them stay")
    reverse: float = Field(0.0, ge=0, le=1, description="probability that a clip runs backwards")
    jitter: float = Field(
        0.0, ge=0, le=1, description="probability that a clip's frames are drawn within their parts of the video"
    )
    interpolate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that a clip moves towards another of its label in the batch, by up to half of the way",
    )
    brightness: float = Field(0.0, ge=0, description="shift of a channel, in its standard deviations (FroFA)")
    contrast: float = Field(0.0, ge=0, lt=1, description="relative change of a channel's spread (FroFA)")


class Align(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Stage 3: weights of the losses that bring images and videos into one feature space; 0 switches each off."""

    supcon: float = Field(0.0, ge=0, description="weight of supervised contrast across the two kinds")
    temperature: float = Field(0.1, gt=0, description="of the contrast")
    coral: float = Field(0.0, ge=0, description="weight of covariance alignment (deep CORAL)")
    mmd: float = Field(0.0, ge=0, description="weight of distribution alignment within each label, by maximum mean discrepancy")
    consistency: float = Field(0.0, ge=0, description="weight of agreement between a clip and one of its frames")


class Recipe(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One stage of training."""

    stage: Literal[1, 2, 3] = Field(description="1 single frames, 2 clips, 3 both in one feature space")
    start: Literal["previous", "scratch"] = Field(
        "previous", description="previous: from the stage before (stage 1 has none); scratch: from random weights"
    )
    seed: int = Field(0, ge=0, description="of weights, order, augmentation and choice of samples")
    data: Data
    adapter: Adapter = Adapter()
    optim: Optim
    loss: Loss = Loss()
    augment: Augment = Augment()
    align: Align = Align()

    @model_validator(mode="after")
    def _fits_stage(self) -> Self:
        if self.stage == 1 and self.data.frames != 1:
            raise ValueError(f"stage 1 trains on single frames: data.frames must be 1, not {self.data.frames}")
        if self.stage == 2 and self.data.kinds != ("video",):
            raise ValueError('stage 2 trains on clips alone: data.kinds must be ["video"]')
        if self.stage == 3 and set(self.data.kinds) != {"image", "video"}:
            raise ValueError('stage 3 aligns two kinds: data.kinds must be ["image", "video"]')
        if self.loss.kind == "balanced" and self.data.balance == "label":
            raise ValueError(
                'loss.kind "balanced" weighs what data.balance "label" already draws equally often: set data.balance="none"'
            )
        return self
