"""Settings: frozen, nested, typed. One set of defaults, here; YAML files and `--set` change what they name.

Each field is explained once, in the text below it, which `p2m COMMAND --help` and docs/settings.md show. Whatever the
settings alone decide is checked by the validators here, when a config is loaded; what depends on data is checked
where the data are opened.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from p2m_core.errors import InputError

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
OneOrMore = BeforeValidator(lambda x: (x,) if isinstance(x, str) else tuple(x) if isinstance(x, list) else x)
Subset = Literal["AFW", "HELEN", "IBUG", "LFPW"]
Names = Annotated[tuple[str, ...], OneOrMore]
SwitchOrShare = Annotated[Share, BeforeValidator(lambda value: float(value) if isinstance(value, bool) else value)]

# They want the true place of each template vertex.
BY_CORRESPONDENCE = ("vertex", "shape", "landmark", "opening", "correspondence")
LOSS_TERMS = (*BY_CORRESPONDENCE, "chamfer", "normal", "edge", "laplace", "move", "reconst")


def refuse(fields: str, problem: str, remedy: str) -> None:
    """Raise the error of a validator.

    Args: fields: the setting, or several that do not fit each other, with spaces between: `load_config` then
          names the first of them that somebody set, and the file or the --set that did it.
    """
    raise InputError("config", fields, problem, remedy)


class Section(BaseModel):
    """Base of all settings: no unknown names, no silent conversion, no change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class SynthConfig(Section):
    """The synthetic set that `p2m synth` writes: faces, or objects where data.kind is "objects"."""

    out: str = "data/raw/synthetic"
    """Folder to write."""
    start: Natural = 0
    """Index of the first sample, so that several machines can write parts of one set."""
    count: Count = 2000
    """Number of faces, or of objects of each category."""
    size_px: Count = 224
    """Side of the square images of faces, px."""
    seed: Natural = 0
    """Seed of the set: the same seed gives the same faces."""
    yaw: Literal["aflw2000", "uniform", "between"] = "aflw2000"
    """Shares of the yaw ranges 0-30, 30-60 and 60-90 degrees: those of AFLW2000-3D, equal, or in between."""
    perspective: SwitchOrShare = 0.0
    """Share of faces seen from near by, with the perspective of a telephone's camera; the others from afar."""
    even: Share = 0.0
    """Share of faces whose pitch, roll, expression and mouth are drawn evenly over their range: rare ones as often."""
    backgrounds: str | None = None
    """Folder of pictures to take backgrounds from; null draws them."""
    workers: Count = 2
    """Number of processes."""
    scheduler: str | None = None
    """Address tcp://HOST:PORT of a Dask scheduler whose workers replace the processes of this machine, or null."""


class DataConfig(Section):
    """The raw images and labels, and the store that `p2m preprocess` makes of them."""

    kind: Literal["faces", "folder", "objects"] = "faces"
    """Form of the raw data: "faces" of AFLW2000-3D's or 300W-LP's form, "folder" with meshes or point clouds beside
    its pictures, or "objects" in Pixel2Mesh's packed ShapeNet form, which training reads as they are."""
    points: Count = 10_000
    """Points that are kept of each sample of a folder set."""
    raw: str = "data/raw/synthetic"
    """Folder or zip of images and labels."""
    store: str = "data/processed/synthetic"
    """The store: what preprocessing writes and training reads. `p2m preprocess FOLDER` writes data/processed/FOLDER
    where it is not given."""
    face_model: str = "auto"
    """Face model that gives the true vertices: "synthetic" (the project's own), "fit" (the own one, fitted to the 68
    landmarks), the folder or file of another, or "auto": the own one for synthetic sets, else the model in
    data/raw/BFM, else a fit."""
    subsets: Annotated[tuple[Subset, ...], OneOrMore] = ("AFW", "HELEN", "IBUG", "LFPW")
    """Folders of 300W-LP to read."""
    flipped: bool = True
    """Read the mirrored twins of 300W-LP too."""
    store_px: Count = 224
    """Side of the stored crops, px."""
    store_margin: Annotated[float, Field(gt=1)] = 1.9
    """Side of a stored crop over the longer side of the landmarks' box: room for a head that lies, cut upright."""
    split: Literal["auto", "shares", "fold-1", "fold-2", "fold-3", "fold-4", "fold-5"] = "auto"
    """How samples are split: by val_share and test_share, by a tracked fold of AFLW2000-3D, or "auto": the tracked
    split for images of AFLW2000-3D, else by shares. Samples of one photo stay together."""
    val_share: Share = 0.05
    """Share of the samples for validation."""
    test_share: Share = 0.10
    """Share of the samples for the test."""
    split_seed: int = 0
    """Seed of the split by shares."""
    workers: Count = 2
    """Number of processes."""


class TemplateConfig(Section):
    """The mesh that the network deforms. Each level has the triangles of the level before, each divided into four."""

    kind: Literal["face", "semi_sphere", "ellipsoid"] = "face"
    """For faces "face", a cap whose edges follow lids and lips, with eyes and a mouth that opens, or "semi_sphere", a
    regular cap laid on the face model; for objects "ellipsoid"."""
    rings: Count = 6
    """Rings of triangles of the semi-sphere at level 1."""
    levels: Count = 4
    """Number of levels; model.hidden and model.blocks have an entry for each."""
    file: str | None = None
    """A mesh (.obj and the like), .dat or .npz to take instead, for objects; null builds `kind`."""


class ModelConfig(Section):
    """The network. Weights files carry these settings."""

    backbone: Literal["resnet18", "resnet50", "vgg16"] = "resnet18"
    """The image encoder; vgg16 is the Pixel2Mesh paper's own variant."""
    pretrained: bool | str = False
    """Start the encoder with ImageNet weights; or the path of VGGFace2's weights, for resnet50."""
    normalisation: Literal["imagenet", "imagenet_of_255", "vggface2", "none"] = "imagenet"
    """What the encoder's input is normalised by; VGGFace2's weights want "vggface2", those of an older face port
    "imagenet_of_255": values up to 255 less ImageNet's mean of values up to 1."""
    decoder: bool = False
    """Add the paper's decoder, which draws the input from the feature maps, for loss.reconst; vgg16 only."""
    tensorflow_aligned: bool = False
    """Pad, project and sample as the official TensorFlow code does, for its weights."""
    align_corners: bool = False
    """Sample feature maps as PyTorch up to 1.2 did, for weights that were trained with it."""
    input_px: Count = 112
    """Side of the network's input, px."""
    camera: Literal["crop", "perspective", "legacy_crop"] = "crop"
    """Where a vertex falls on the input. "crop", for faces: coordinates are those of the crop, in [-1, 1].
    "perspective", for objects: metres before a pinhole camera. "legacy_crop": the camera of an older face port, for
    its weights."""
    focal_px: tuple[float, float] = (248.0, 248.0)
    """Focal lengths x, y of the perspective camera, px of the input."""
    centre_px: tuple[float, float] = (111.5, 111.5)
    """Principal point x, y of the perspective camera, px of the input."""
    mesh_offset: tuple[float, float, float] = (0.0, 0.0, -0.8)
    """Where the object's origin lies before the perspective camera, which looks along -z; metres."""
    z_threshold: Positive | None = None
    """Least distance from the perspective camera that a vertex is projected with, metres; null sets no limit."""
    margin: Annotated[float, Field(gt=1)] = 1.3
    """Side of the input's crop over the longer side of the landmarks' box."""
    feature_channels: Natural = 0
    """Channels that each feature map is reduced to before all four are merged; 0 concatenates all channels, as the
    paper does."""
    hidden: tuple[Count, ...] = (192, 192, 192, 192)
    """Channels of the graph convolutions, an entry for each level."""
    last_hidden: Natural = 0
    """Channels between the last stage and a further graph convolution to coordinates; 0 leaves that one out."""
    blocks: tuple[Natural, ...] = (6, 6, 6, 6)
    """Number of residual blocks of the graph network, an entry for each level."""
    block: Literal["averaged", "prenorm"] = "averaged"
    """Form of a residual block: the paper's mean of input and output, or a sum with a normalised input."""
    unpooling: Literal["midpoint", "adaptive", "unbounded"] = "midpoint"
    """Where the middle of an edge lies: half way between its ends, or by learned weights; "unbounded" ones may lie
    beyond the ends, as in an older port."""
    residual: bool = True
    """Stages predict displacements; else positions, as the paper's code does."""
    template_detail: bool = False
    """Place the new vertices of a level at the finer template plus the displacement of their edge's ends, instead of
    in the middle of the edge."""
    pose_head: bool = True
    """Predict rotation, scale and shift of the template in the crop before the first stage; camera "crop" only."""
    global_feature: bool = False
    """Give every vertex the mean of the deepest feature map too."""
    template_coordinates: bool = False
    """Give every vertex its coordinates on the template too."""
    pyramid: bool = False
    """Merge the feature maps from coarse to fine with two 3x3 convolutions at each size, instead of adding them; wants
    feature_channels."""
    correspondence_map: bool = False
    """Predict for each pixel the point of the template that it shows, and move the coarse levels by it; wants
    feature_channels, camera "crop", residual stages and last_hidden 0."""
    shape_basis: Natural = 0
    """Number of learned displacements of the whole template that are summed before the first stage; wants
    template_detail. 0 has none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.hidden) != len(self.blocks):
            problem = f"model.blocks has {len(self.blocks)} entries, model.hidden has {len(self.hidden)}"
            refuse("model.blocks model.hidden", problem, "give both one entry for each level")
        if self.pose_head and self.camera != "crop":
            problem = f"model.pose_head places a template in a crop, but model.camera is {self.camera}"
            refuse("model.pose_head model.camera", problem, "set model.pose_head=false")
        for name in ("correspondence_map", "pyramid"):
            if getattr(self, name) and not self.feature_channels:
                problem = "is for maps that are merged, but model.feature_channels is 0"
                refuse(f"model.{name}", problem, "set it to false, or give the number of channels")
        if self.correspondence_map and (self.camera != "crop" or self.last_hidden or not self.residual):
            problem = "needs a template in a crop and stages that move it"
            remedy = "set it to false, or camera=crop, last_hidden=0 and residual=true"
            refuse("model.correspondence_map", problem, remedy)
        if self.shape_basis and not self.template_detail:
            problem = "changes the template's shape, which finer levels take from it with model.template_detail alone"
            refuse("model.shape_basis", problem, "set it to 0, or template_detail=true")
        if self.decoder and self.backbone != "vgg16":
            problem = f"draws from the maps of a vgg16, but model.backbone is {self.backbone}"
            refuse("model.decoder", problem, "set it to false")
        if self.pretrained and self.backbone == "vgg16":
            problem = "there are no weights of the paper's vgg16"
            refuse("model.pretrained", problem, "set it to false, or convert the official network")
        return self

    @property
    def is_reference(self) -> bool:
        """Whether older code computes so, and p2m_workbench.interop.reference_network."""
        older = self.tensorflow_aligned or self.align_corners or self.unpooling == "unbounded"
        return older or self.camera == "legacy_crop"


class LossConfig(Section):
    """The weights of the loss terms; one of weight 0 is not computed. Lengths are in crop coordinates in [-1, 1] for
    faces, in metres for objects. Of the terms that know a truth a mouth's membrane counts in vertex alone, a little."""

    vertex: Weight = 0.0
    """Smooth L1 between each vertex and its true place, at every level."""
    shape: Weight = 0.0
    """Smooth L1 that is left after the best similarity onto the truth, at every level."""
    landmark: Weight = 0.0
    """Mean distance of the 68 landmarks in the image plane."""
    opening: Weight = 0.0
    """Mean error of the ways from upper to lower lids and inner lips, in the image plane."""
    chamfer: Weight = 100.0
    """Squared chamfer distance to points of the true surface."""
    chamfer_levels: tuple[Weight, ...] = (0.5, 1.0, 1.0, 1.0)
    """Share of each level in the chamfer term."""
    chamfer_opposite: Weight = 0.55
    """Weight of the way from prediction to truth in the chamfer term; that from truth to prediction has 1."""
    points: Count = 8000
    """Points drawn of the true surface for the chamfer term."""
    regions: tuple[Share, Share] = (0.0, 0.0)
    """Shares of these points that are drawn within 0.1 and within 0.05 face sizes of a landmark, the rest being drawn
    even by area; [0.22, 0.17] is as in older ports."""
    normal: Weight = 1.6e-4
    """Mean |cos| between a vertex's edges and the true normal there."""
    edge: Weight = 0.1
    """Mean squared edge length."""
    laplace: Weight = 0.5
    """Mean squared change of the Laplacian coordinates across a stage."""
    laplace_levels: tuple[Weight, ...] = (0.2, 1.5, 1.2, 1.0)
    """Share of each level in the terms laplace and move."""
    move: Weight = 0.033
    """Mean squared displacement of a stage, from level 2 on."""
    correspondence: Weight = 0.0
    """Mean distance on the template between what model.correspondence_map says of a pixel and what it shows."""
    reconst: Weight = 0.0
    """Binary cross-entropy of the picture that model.decoder draws."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(getattr(self, name) for name in LOSS_TERMS):
            refuse("loss", "every term has weight 0", "give one of them a weight above 0")
        if sum(self.regions) > 1:
            refuse("loss.regions", f"adds up to {sum(self.regions):g}", "give shares of at most 1 in all")
        if any(self.regions) and not self.chamfer:
            refuse("loss.regions", "is set, but nothing draws points", "set loss.chamfer above 0")
        return self


class AugmentConfig(Section):
    """Random changes of the training images."""

    flip: Share = 0.5
    """Probability of mirroring."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 14.0
    """Standard deviation of the rotation in the image plane, degrees."""
    scale: Weight = 0.10
    """Standard deviation of the logarithm of the scale."""
    shift: Weight = 0.05
    """Standard deviation of the shift, in sides of the crop."""
    color: Share = 1.0
    """Probability of another gamma, contrast, brightness and tint; a fifth of these images become grey."""
    blur: Share = 0.4
    """Probability of blur or of a lower resolution."""
    noise: Share = 0.3
    """Probability of Gaussian noise."""
    jpeg: Share = 0.2
    """Probability of JPEG artefacts, quality 15 to 69."""
    occlude: Share = 0.5
    """Probability of one or two patches that cover a part of the image."""


class TrainConfig(Section):
    """The optimisation."""

    epochs: Count = 10
    """Passes over the training samples."""
    minutes: Positive | None = None
    """Minutes after which the run ends, instead of after `epochs`; the schedule follows whichever counts."""
    batch_size: Count = 32
    """Samples of a step, shared by all processes."""
    accumulate: Count = 1
    """Passes that a process computes its samples of a step in, so that they need less memory."""
    processes: Count = 1
    """Processes on this machine, one for each GPU; torchrun and Slurm set their own number."""
    lr: Positive = 1e-3
    """Highest learning rate, of AdamW."""
    weight_decay: Weight = 1e-2
    """AdamW's weight decay."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Learning rate after the warm-up: a cosine down to 1%, times lr_drop at each milestone, or constant."""
    warmup_steps: Natural = 200
    """Steps in which the learning rate rises linearly to `lr`."""
    milestones: tuple[Share, ...] = (0.6, 0.9)
    """Where schedule "step" lowers the learning rate, in shares of the run."""
    lr_drop: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of schedule "step" at each milestone."""
    clip: Positive = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    ema: Share = 0.0
    """Decay of the moving average of the weights, which is what is validated and kept; 0 has no average."""
    patience: Natural = 0
    """Validations in a row without improvement after which the run ends; 0 never ends it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Number format of encoder and graph layers; "auto" is bf16 where that is the faster here, else fp32."""
    workers: Natural = 1
    """Processes that load samples; 0 loads them in the training process."""
    threads: Natural = 0
    """Threads of torch; 0 leaves the number to torch."""
    device: str = "auto"
    """cpu, cuda, cuda:1 and so on; "auto" is CUDA where there is a device."""
    log_steps: Count = 20
    """Steps between two rows of metrics.csv and TensorBoard."""
    preview_minutes: Positive = 0.5
    """Minutes between two pictures of predictions."""
    validate_minutes: Positive = 5.0
    """Minutes between two validations."""
    checkpoint_minutes: Positive = 2.0
    """Minutes between two checkpoints."""
    init_from: str | None = None
    """Weights to start from: "bundled", a .safetensors file, a run's folder, or null for random ones."""
    freeze_backbone: bool = False
    """Leave the encoder's weights as they are."""
    continue_with: bool = False
    """Let a run go on although settings that decide its weights have changed; its history.json keeps both."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % (self.processes * self.accumulate):
            each = f" in {self.accumulate} passes" if self.accumulate > 1 else ""
            problem = f"{self.batch_size} samples a step cannot be shared evenly by {self.processes} processes{each}"
            refuse(
                "train.batch_size train.processes train.accumulate",
                problem,
                f"give a batch size that is a multiple of {self.processes * self.accumulate}",
            )
        return self


class EvaluateConfig(Section):
    """What `p2m evaluate` measures."""

    protocol: Literal["landmarks", "surface", "scan-to-mesh", "consistency"] = "landmarks"
    """What: "landmarks" of a store, its "surface" for networks without landmarks too, "scan-to-mesh" of a folder of
    scans, "consistency" of FOLDER/VIEW/PERSON_*.jpg."""
    weights: str = "run"
    """Weights that all others are compared with: "run" (this run's), "bundled", a file, or a run's folder."""
    checkpoints: Names = ()
    """Further weights for the same tables."""
    predictions: Names = ()
    """Files (npz, npy, txt, obj) or folders with landmarks or vertices that other systems predicted; faces only."""
    mapping: Names = ("auto",)
    """How the points of `predictions` are the 68 landmarks: "auto" (by their number), "dlib68", "mediapipe468",
    "template", a list of 68 point numbers such as 0,7,12+13 (a mean), or a file with one; once for all files, or once
    for each."""
    split: Literal["train", "val", "test", "all"] = "test"
    """Samples to measure on."""
    store: str | None = None
    """Store to measure on, null takes data.store; for the last two protocols the folder of scans or people."""
    flip: bool = True
    """Average with the prediction for the mirrored image; faces only."""
    found: bool = False
    """Measure each network also on the faces that it finds itself in the set's photos."""
    views: Names = ()
    """Views of consistency to compare, the first being the reference; all folders, by name, where none is given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.predictions and self.mapping != ("auto",):
            refuse("evaluate.mapping", "is set without predictions", "set evaluate.predictions too")
        if self.predictions and len(self.mapping) not in (1, len(self.predictions)):
            problem = f"has {len(self.mapping)} entries for {len(self.predictions)} predictions"
            refuse("evaluate.mapping", problem, "give one for all, or one each")
        return self


SavedFile = Literal[
    "obj", "ply", "glb", "levels", "json", "pts", "overlay", "crop", "depth", "normals", "turntable", "turning-levels",
    "html", "rig", "camera", "csv",
]  # fmt: skip
SAVED: tuple[SavedFile, ...] = get_args(SavedFile)


class PredictConfig(Section):
    """Photos in, meshes out: `p2m predict` and notebook 05."""

    weights: str = "bundled"
    """Weights to predict with: "bundled", a file, or a run's folder."""
    photos: Names = ("grace_hopper",)
    """Photos of notebook 05: files, folders of them, or "grace_hopper", a sample."""
    flip: bool = True
    """Average with the prediction for the mirrored photo, which takes twice the time."""
    passes: Annotated[int, Field(ge=1, le=4)] = 2
    """Predictions of a face, 1 to 4; each after the first is of a crop around the one before."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of encoder and graph layers; "auto" is bf16 where that is the faster here, else fp32."""
    save: Annotated[tuple[SavedFile, ...], OneOrMore] = ("obj", "ply", "glb", "overlay", "crop", "html", "json", "csv")
    """Files to write of each face: obj, ply, glb, levels, json, pts, overlay, crop, depth, normals, turntable,
    turning-levels, html; camera, from meshes to the photo; rig, which moves by ARKit's 52 units; csv, of all faces."""
    frame: Literal["photo", "head_mm"] = "photo"
    """Where meshes lie: over the photo, px; or upright, centred, in mm, taking each head for as large as the mean."""
    workers: Count = 1
    """Number of processes."""
    video: bool = False
    """Take photos as consecutive frames, whose faces are followed and smoothed; films, as clip.mp4, are so anyway."""
    min_face: Natural = 0
    """Side in px of the smallest faces that are looked for; smaller ones are left out. 0: of any size, from 65 px."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.video and self.workers > 1:
            refuse("predict.workers", "is above 1 for a video, whose frames follow each other", "set it to 1")
        return self


class SweepConfig(Section):
    """Many runs of one config, by `p2m sweep`: every variant with every combination of the grid and every seed."""

    variants: dict[str, dict[str, Any]] = {}
    """Named variants, {name: {setting: value}}, such as {small: {model.input_px: 64}}."""
    grid: dict[str, tuple[Any, ...]] = {}
    """Settings and their values, {setting: [values]}, such as {train.lr: [1e-4, 3e-4]}; every combination is a run."""
    seeds: Count = 1
    """Runs of each variant, with this many seeds from the config's own on."""
    jobs: Count = 1
    """Runs at a time."""
    timeout_s: Positive | None = None
    """Seconds that a notebook may take; null sets no limit."""
    retries: Natural = 1
    """How often a run that failed is tried again."""
    report: str | None = "03_evaluate"
    """Notebook that compares the runs at the end, or null."""


class Config(Section):
    """All settings of one run. A YAML file in configs/ and `--set a.b=value` change them; `p2m settings` makes this
    list from their texts in p2m_core/config/settings.py."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")] = "base"
    """Name of the run, and its folder in outputs/; a YAML file's own name where it says none."""
    seed: int = 0
    """Seed of the network's first weights and of all that training draws."""
    notebooks: Names = ("01_preprocess", "02_train", "03_evaluate", "04_inspect", "05_predict")
    """Notebooks that `p2m run` executes, in this order."""
    synth: SynthConfig = SynthConfig()
    data: DataConfig = DataConfig()
    template: TemplateConfig = TemplateConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    sweep: SweepConfig = SweepConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.loss.correspondence and not self.model.correspondence_map:
            refuse("loss.correspondence", "is above 0, but there is no map", "set model.correspondence_map=true")
        if self.loss.reconst and not self.model.decoder:
            refuse("loss.reconst", "is above 0, but nothing draws", "set model.decoder=true")
        if self.data.kind == "faces":
            if self.template.kind == "ellipsoid" or self.template.file:
                field = "template.file" if self.template.file else "template.kind"
                problem = (
                    "faces want a template that is registered on a face model, which gives its vertices their meaning"
                )
                refuse(
                    field, problem, "set template.kind to semi_sphere or face and leave template.file, or set data.kind"
                )
        else:
            self._check_clouds()
        if self.template.kind == "face" and self.template.rings != TemplateConfig().rings:
            refuse("template.rings", "is set, but template.kind is face", "set template.kind=semi_sphere")
        if self.template.file is None:  # else the file says how many levels there are
            levels = self.template.levels
            if len(self.model.hidden) != levels:
                problem = f"model.hidden has {len(self.model.hidden)} entries for {levels} levels"
                remedy = f"it needs one entry for each of the {levels} levels"
                refuse("model.hidden template.levels", problem, remedy)
            for name in ("chamfer_levels", "laplace_levels"):
                if (weights := len(getattr(self.loss, name))) < levels:
                    problem = f"loss.{name} has {weights} weights for {levels} levels"
                    refuse(f"loss.{name} template.levels", problem, "give one for each level")
        return self

    def _check_clouds(self) -> None:
        """What data of kind "folder" and "objects" want, whose truth is a cloud of points."""
        for name in BY_CORRESPONDENCE:
            if getattr(self.loss, name):
                refuse(f"loss.{name}", "is above 0, but clouds have no vertices", "set it to 0")
        if any(self.loss.regions):
            refuse("loss.regions", "is set, but clouds have no landmarks", "set it to [0, 0]")
        if self.evaluate.flip:
            problem = "objects have no mirror image to average with"
            refuse("evaluate.flip data.kind", problem, "set evaluate.flip=false")
        if self.evaluate.predictions:
            problem = "is set, but predictions of other systems are of faces"
            refuse("evaluate.predictions", problem, "take it out, or evaluate faces")
        changes, reason = list(AugmentConfig.model_fields), "objects are trained on as they are"
        if self.data.kind == "folder":
            changes, reason = ["flip", "rotate_deg", "scale", "shift"], "a perspective camera stands where it stands"
        wanted = [name for name in changes if getattr(self.augment, name)]
        if self.model.camera == "perspective" and wanted:
            fields = " ".join(f"augment.{name}" for name in wanted)
            refuse(f"{fields} data.kind", f"augment has {', '.join(wanted)} above 0, but {reason}", "set them to 0")
        if self.data.kind == "objects":
            if self.model.camera != "perspective":
                problem = f"objects are seen by a perspective camera, but model.camera is {self.model.camera}"
                refuse("model.camera data.kind", problem, "set model.camera=perspective")
            if not self.template.file and self.template.kind != "ellipsoid":
                problem = f"objects want an ellipsoid, but template.kind is {self.template.kind}"
                refuse("template.kind data.kind", problem, "set template.kind=ellipsoid, or a template.file")
