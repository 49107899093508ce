"""Settings: frozen, nested, typed. One set of defaults, here; YAML files change what they name.

    base.yaml  <-based_on-  face-lite.yaml  <-  --set train.lr=1e-4        later ones win

`load_config` is pure: it reads files and returns a `Config`, and nothing global changes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all settings: no unknown names, no silent conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SynthConfig(Section):
    """The synthetic set that is written when there is no data.

    start: the first sample's index, so that several machines can write parts of one set.
    perspective: see the heads from near by, as a telephone does. backgrounds: a folder of pictures to stand before.
    scheduler: the address of a Dask scheduler whose workers take the place of `workers` processes, or null.
    """

    out: str = "data/raw/synthetic"
    start: Annotated[int, Field(ge=0)] = 0
    count: Count = 2000
    size_px: Count = 224
    seed: Annotated[int, Field(ge=0)] = 0
    yaw: Literal["aflw2000", "uniform", "between"] = "aflw2000"
    perspective: bool = False
    backgrounds: str | None = None
    workers: Count = 2
    scheduler: str | None = None


class DataConfig(Section):
    """Raw images and labels, in a folder or a zip, and the store that is made of them.

    kind: "faces" in AFLW2000-3D's format; "folder", pictures with meshes or points beside them; or "objects" in
    Pixel2Mesh's packed ShapeNet format, read from raw as it is. points: of a folder set, kept of each sample.
    lists: of objects, the folder of train.txt and test.txt; null is raw itself.
    face_model: "synthetic" (our own), "fit" (our own, fitted to pt3d_68), a folder or file of a face model in a format
    of faces/formats.py, or "auto": our own for our own sets, data/raw/BFM where it holds a model, else a fit.
    split: by "shares", by the tracked lists of AFLW2000-3D ("fold-1" to "fold-5"), or "auto": by the first of these
    lists for AFLW2000-3D's 2000 images, else by shares. Samples that were made of one photo stay together.
    subsets, flipped: of 300W-LP, which of its folders, and whether with their mirrored twins, which augment.flip makes
    as well.
    crop: around the "landmarks", or the "detected" face as a photo without annotation would be cut; a sample whose face
    is not found is listed, and cut around the "landmarks" or left out ("skip"), as undetected says.
    Margins are the crop's side over the longer side of the landmarks' box.
    """

    kind: Literal["faces", "folder", "objects"] = "faces"
    points: Count = 10_000
    raw: str = "data/raw/synthetic"
    lists: str | None = None
    store: str = "data/processed/synthetic"
    face_model: str = "auto"
    subsets: tuple[Literal["AFW", "HELEN", "IBUG", "LFPW"], ...] = ("AFW", "HELEN", "IBUG", "LFPW")
    flipped: bool = True
    crop: Literal["landmarks", "detected"] = "landmarks"
    undetected: Literal["landmarks", "skip"] = "landmarks"
    store_px: Count = 176
    store_margin: Annotated[float, Field(gt=1)] = 1.5
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    split: Literal["auto", "shares", "fold-1", "fold-2", "fold-3", "fold-4", "fold-5"] = "auto"
    val_share: Share = 0.05
    test_share: Share = 0.10
    split_seed: int = 0
    workers: Count = 2


class TemplateConfig(Section):
    """The mesh that is deformed, subdivided to so many levels.

    kind: "semi_sphere" (a hexagonal disc of so many rings, registered on the face model), or "ellipsoid" (objects).
    file: a mesh, .dat or .npz to take instead, see load_template; null builds the kind.
    """

    kind: Literal["semi_sphere", "ellipsoid"] = "semi_sphere"
    rings: Count = 6
    levels: Count = 4
    file: str | None = None


class ModelConfig(Section):
    """The network. `hidden` and `blocks` have one entry a level.

    camera: where vertices fall on the input. "crop": they are normalised crop coordinates, and the template is scaled
    into the crop; else they are the template's own. "perspective": objects in metres before a pinhole of focal_px and
    centre_px, moved by mesh_offset, no nearer than z_threshold. "legacy_crop": an older face port's, for parity.
    pretrained: ImageNet weights, or the path of VGGFace2's, which want normalisation "vggface2".
    last_hidden: channels between the last stage and a graph convolution of its own to coordinates; 0 has none.
    decoder: draws the image from the maps, for loss.reconst; vgg16 only.
    tensorflow_aligned: padding, projection and sampling as in the official TensorFlow code.
    feature_channels: 0 lays all of the encoder's channels side by side, as the reference does; else each map is
    reduced to so many by a 1x1 convolution and the four are added.
    template_detail: new vertices lie on the placed template plus the mean offset of their edge's ends, instead of in
    the middle of the edge, so that they begin with the template's finer shape.
    pyramid: maps are merged from coarse to fine with two 3x3 convolutions at each size, instead of added.
    correspondence_map: a map of where on the template lies what a pixel shows, taught by loss.correspondence. Coarse stages are told
    how far it is from each vertex and how to move there; all move vertices in the template's frame as well as in the
    crop's.
    shape_basis: number of displacements of the whole template, learned, that are added to it before the stages, by
    coefficients from the means of all of the encoder's maps; wants template_detail.
    """

    backbone: Literal["resnet18", "resnet50", "vgg16"] = "resnet18"
    pretrained: bool | str = False
    normalisation: Literal["imagenet", "vggface2", "none"] = "imagenet"
    decoder: bool = False
    tensorflow_aligned: bool = False
    input_px: Count = 112
    camera: Literal["crop", "perspective", "legacy_crop"] = "crop"
    focal_px: tuple[float, float] = (248.0, 248.0)
    centre_px: tuple[float, float] = (111.5, 111.5)
    mesh_offset: tuple[float, float, float] = (0.0, 0.0, -0.8)
    z_threshold: Annotated[float, Field(gt=0)] | None = None
    margin: Annotated[float, Field(gt=1)] = 1.3
    feature_channels: Annotated[int, Field(ge=0)] = 0
    hidden: tuple[Count, ...] = (192, 192, 192, 192)
    last_hidden: Annotated[int, Field(ge=0)] = 0
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = (6, 6, 6, 6)
    block: Literal["averaged", "prenorm"] = "averaged"
    unpooling: Literal["midpoint", "adaptive"] = "midpoint"
    residual: bool = True
    template_detail: bool = False
    pose_head: bool = True
    global_feature: bool = False
    template_coordinates: bool = False
    pyramid: bool = False
    correspondence_map: bool = False
    shape_basis: Annotated[int, Field(ge=0)] = 0


class LossConfig(Section):
    """The weight of each term; a term with weight 0 is not computed.

    Coordinates are the network's own: normalised crop coordinates for faces, metres for objects. points: drawn of the
    true surface for the chamfer term. regions: the shares of them that are drawn near and very near the landmarks,
    within region_radii in face sizes; the rest is drawn of the whole face, even by area. (0.22, 0.17) is as in older
    ports, with 11000, 4000 and 3000 points. correspondence: how far off model.correspondence_map is, on the unit template. reconst:
    binary cross-entropy of the decoder's image.
    """

    vertex: Weight = 0.0
    shape: Weight = 0.0
    landmark: Weight = 0.0
    chamfer: Weight = 100.0
    chamfer_levels: tuple[Weight, ...] = (0.5, 1.0, 1.0, 1.0)
    chamfer_opposite: Weight = 0.55
    points: Count = 8000
    regions: tuple[Share, Share] = (0.0, 0.0)
    region_radii: tuple[Weight, Weight] = (0.1, 0.05)
    normal: Weight = 1.6e-4
    edge: Weight = 0.1
    laplace: Weight = 0.5
    laplace_levels: tuple[Weight, ...] = (0.2, 1.5, 1.2, 1.0)
    move: Weight = 0.033
    correspondence: Weight = 0.0
    reconst: Weight = 0.0


class AugmentConfig(Section):
    """Random changes of the training images."""

    flip: Share = 0.5
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 14.0
    scale: Weight = 0.10
    shift: Weight = 0.05
    color: Share = 1.0
    blur: Share = 0.4
    noise: Share = 0.3
    jpeg: Share = 0.2
    occlude: Share = 0.5


class TrainConfig(Section):
    """The optimisation. `minutes` ends the run by the clock instead of by `epochs`; the schedule follows whichever
    is set.

    batch_size: samples of a step, shared by all processes. accumulate: passes that a step's samples are computed in,
    so that less memory holds them. processes: on this machine, one a GPU; under torchrun or Slurm it is theirs to say.
    schedule: after the warm-up, "cosine" to 1%, "step" (times lr_drop at each of the milestones, shares of the run),
    or "constant". clip: the gradient's norm at most. ema: share of the averaged weights that a step keeps; 0 has none.
    patience: validations in a row without improvement that end the run; 0 never does.
    precision: of the encoder; "auto" is bf16 where the device has instructions for it, else fp32.
    compile: the encoder by torch.compile, which takes a minute at the start and a C++ compiler.
    profile_steps: steps that are profiled, into profile.txt and profile.json (a Chrome trace). init_from: null,
    "bundled", or a .safetensors file.
    """

    epochs: Count = 10
    minutes: Annotated[float, Field(gt=0)] | None = None
    batch_size: Count = 32
    accumulate: Count = 1
    processes: Count = 1
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Weight = 1e-2
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    milestones: tuple[Share, ...] = (0.6, 0.9)
    lr_drop: Annotated[float, Field(gt=0, le=1)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    ema: Share = 0.0
    patience: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] = 1
    threads: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"
    log_steps: Count = 20
    profile_steps: Annotated[int, Field(ge=0)] = 0
    preview_minutes: Annotated[float, Field(gt=0)] = 0.5
    validate_minutes: Annotated[float, Field(gt=0)] = 5.0
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 2.0
    init_from: str | None = None
    freeze_backbone: bool = False


class EvaluateConfig(Section):
    """What is measured, and with which weights ("run": those of this run). store: null is data.store.

    checkpoints: further weights to stand in the same tables. predictions: files or folders of other systems' landmarks
    or vertices, see predictions.py. mapping: how their points are the 68 landmarks, for all of them or one each: "auto"
    (by their number), "dlib68", "mediapipe468", "template", a list such as "0,7,12+13,...", or a file with one.
    """

    weights: str = "run"
    checkpoints: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    mapping: tuple[str, ...] = ("auto",)
    split: Literal["train", "val", "test", "all"] = "test"
    store: str | None = None
    flip: bool = True


SAVED = (
    "obj", "ply", "glb", "levels", "json", "pts", "overlay", "crop", "depth", "normals", "turntable", "turning-levels",
    "html", "csv",
)  # fmt: skip


class PredictConfig(Section):
    """Photos in, meshes out. photos: files or folders, or "grace_hopper", matplotlib's sample photo.

    passes: the second crops again around the first prediction. detector: see detect.detect_faces. precision: as
    train.precision. save: which files, see export.SAVERS; csv is a table of all faces. video: photos are consecutive
    frames, so that a face is looked for where it was.
    """

    weights: str = "bundled"
    photos: tuple[str, ...] = ("grace_hopper",)
    flip: bool = True
    passes: Annotated[int, Field(ge=1, le=4)] = 2
    detector: Literal["cascades", "fast", "blazeface"] = "cascades"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    save: tuple[Literal[SAVED], ...] = ("obj", "ply", "glb", "overlay", "crop", "html", "json", "csv")
    workers: Count = 1
    video: bool = False


class SweepConfig(Section):
    """Many runs of one config, by p2m sweep: every one of `variants` (name: {setting: value}) with every combination of
    `grid` (setting: [values]), with `seeds` seeds each from the config's on, `jobs` at a time.

    timeout_s: what a notebook may take.   retries: how often a run that failed is tried again.
    scheduler: "pool" (processes here), "local" (Dask's LocalCluster), tcp://HOST:PORT of a Dask scheduler, "slurm"
    (dask-jobqueue), or "auto": local where Dask is installed.   report: the notebook that compares the runs, or null.
    """

    variants: dict[str, dict[str, Any]] = {}
    grid: dict[str, tuple[Any, ...]] = {}
    seeds: Count = 1
    jobs: Count = 1
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    retries: Annotated[int, Field(ge=0)] = 1
    scheduler: str = "auto"
    report: str | None = "03_evaluate"


class Config(Section):
    """All settings of one run. `name` is the run's folder in outputs/; `notebooks` are those that p2m run executes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")] = "base"
    seed: int = 0
    notebooks: tuple[str, ...] = ("01_preprocess", "02_train", "03_evaluate", "04_inspect", "05_predict")
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
