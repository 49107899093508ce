"""p2m_core.config.settings: what is merged, what is refused and how it is said."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p2m_core.config.loading import config_hash, find_config, load_config, parse_value, save_config, with_values
from p2m_core.config.paths import project_root, resolve, run_folder
from p2m_core.config.settings import Config, Section
from p2m_core.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's root with an empty configs/."""
    monkeypatch.setenv("P2M_HOME", str(tmp_path))
    (tmp_path / "configs").mkdir()
    return tmp_path / "configs"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def leaves(section: Section, prefix: str = ""):
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_defaults_are_those_of_the_code():
    assert load_config() == Config()


def test_every_section_has_defaults_and_refuses_change():
    config = Config()
    assert len(list(leaves(config))) > len(Config.model_fields)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0


def test_child_overrides_what_it_names_and_keeps_the_rest(folder):
    write(folder, "old", "train: {epochs: 7, lr: 0.5}\nseed: 3\n")
    write(folder, "middle", "based_on: old.yaml\ntrain:\n  lr: 0.25\n")
    write(folder, "young", "based_on: middle.yaml\nseed: 4\n")
    config = load_config("young", ["train.batch_size=5"])
    assert (config.train.epochs, config.train.lr, config.seed, config.train.batch_size) == (7, 0.25, 4, 5)
    assert config.augment == Config().augment


def test_loading_leaves_no_trace(folder):
    write(folder, "a", "train: {epochs: 7}\n")
    before = Config()
    first = load_config("a", ["train.lr=0.5"])
    assert load_config("a").train.lr == before.train.lr == Config().train.lr
    assert load_config("a", ["train.lr=0.5"]) == first


def test_parents_may_be_two_deep_but_not_three(folder):
    write(folder, "a", "")
    for child, parent in ("ba", "cb", "dc"):
        write(folder, child, f"based_on: {parent}.yaml\n")
    assert load_config("c").name == "c"
    with pytest.raises(InputError, match="based_on: is more than 2 deep"):
        load_config("d")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cycles_are_refused(folder, size):
    for i in range(size):
        write(folder, f"c{i}", f"based_on: c{(i + 1) % size}.yaml\n")
    with pytest.raises(InputError, match="leads back to itself"):
        load_config("c0")


def test_based_on_is_relative_to_its_file(folder, monkeypatch, tmp_path):
    (folder / "sub").mkdir()
    write(folder, "old", "seed: 8\n")
    write(folder / "sub", "young", "based_on: ../old.yaml\n")
    monkeypatch.chdir(tmp_path.parent)
    assert load_config(folder / "sub" / "young.yaml").seed == 8
    write(folder / "sub", "orphan", "based_on: none.yaml\n")
    with pytest.raises(InputError, match=r"orphan\.yaml: based_on: there is no"):
        load_config(folder / "sub" / "orphan.yaml")
    write(folder, "odd", "based_on: [old.yaml]\n")
    with pytest.raises(InputError, match="is not a file name"):
        load_config("odd")


def test_name_is_the_files_own_and_never_the_parents(folder):
    write(folder, "old", "name: special\n")
    write(folder, "young", "based_on: old.yaml\n")
    assert load_config("old").name == "special"
    assert load_config("young").name == "young"
    assert load_config("young", ["name=other"]).name == "other"
    assert run_folder(load_config("young")) == folder.parent / "outputs" / "young"


@pytest.mark.parametrize("name", ["..", "a/..", "a//b", "/a", "a/", "", ".hidden", "a b"])
def test_name_must_be_a_folder_below_outputs(name):
    with pytest.raises(InputError, match="--set: name: "):
        load_config(None, [f"name={json.dumps(name)}"])


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.epoch=3", "train.epochs"),
        ("trian.epochs=3", "train"),
        ("batch_size=3", "train.batch_size"),
        ("train.batch-size=3", "train.batch_size"),
        ("synth.siz_px=3", "synth.size_px"),
    ],
)
def test_unknown_names_get_the_near_one(override, near):
    with pytest.raises(InputError, match=rf"^--set: .*no such setting.*did you mean {re.escape(near)}\?"):
        load_config(None, [override])


def test_unknown_name_in_a_file_names_the_file_that_holds_it(folder):
    write(folder, "old", "train: {zzzz: 1}\n")
    write(folder, "young", "based_on: old.yaml\ntrain: {epochs: 2}\n")
    with pytest.raises(InputError, match=r"old\.yaml: train\.zzzz: no such setting \(known here: .*epochs") as caught:
        load_config("young")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["two", "1.5", "true", "'3'", "null", "[1]", "0", "-1", "{a: 1}"])
def test_wrong_values_name_field_value_and_default(value):
    with pytest.raises(InputError, match=r"^--set: train\.epochs[:.]") as caught:
        load_config(None, [f"train.epochs={value}"])
    assert "\n" not in str(caught.value)


def test_wrong_value_in_a_file(folder):
    write(folder, "a", "train:\n  lr: fast\n")
    default = Config().train.lr
    with pytest.raises(InputError, match=rf'a\.yaml: train\.lr: .*number, not "fast" \(the default is {default}\)'):
        load_config("a")


def test_former_names_are_told_apart(folder):
    write(folder, "old", "model: {shape_modes: 3}\n")
    with pytest.raises(InputError, match=r"old\.yaml: model\.shape_modes: .*did you mean model\.shape_basis\?"):
        load_config("old")
    with pytest.raises(InputError, match=r"--set: train\.bf16: .*did you mean train\.precision\?"):
        load_config(None, ["train.bf16=on"])


def test_every_field_has_a_text():
    for section in (Config, *(type(value) for _, value in Config() if isinstance(value, Section))):
        for name, info in section.model_fields.items():
            assert info.description or isinstance(info.default, Section), name


# --- settings that do not fit each other ---

FACE_MAP = "model: {correspondence_map: true, feature_channels: 8}\n"
OBJECTS = """
data: {kind: objects}
template: {kind: ellipsoid}
model: {camera: perspective, pose_head: false}
augment: {flip: 0, rotate_deg: 0, scale: 0, shift: 0, color: 0, blur: 0, noise: 0, jpeg: 0, occlude: 0}
evaluate: {flip: false}
"""


@pytest.mark.parametrize(
    ("base", "override", "problem"),
    [
        ("", "model.blocks=[1]", r"model\.blocks: model\.blocks has 1 entries, model\.hidden has 4"),
        ("model: {hidden: [8, 8], blocks: [1, 1]}", "", r"model\.hidden: model\.hidden has 2 entries for 4 levels"),
        (
            "",
            "template.levels=5",
            r"template\.levels: model\.hidden has 4 entries for 5 levels .*one entry for each of the 5 levels",
        ),
        ("", "loss.laplace_levels=[1, 1]", r"loss\.laplace_levels: .* has 2 weights for 4 levels"),
        (
            "",
            "model.camera=perspective",
            r"model\.camera: model\.pose_head places a template in a crop, but .* is perspective",
        ),
        ("", "model.pyramid=true", r"model\.pyramid: is for maps that are merged"),
        (FACE_MAP, "model.last_hidden=8", r"model\.correspondence_map: needs a template in a crop"),
        (FACE_MAP, "model.residual=false", r"model\.correspondence_map: .*residual=true"),
        ("", "model.shape_basis=3", r"model\.shape_basis: .*\(set it to 0, or template_detail=true\)"),
        ("", "model.decoder=true", r"model\.decoder: draws from the maps of a vgg16, but .* is resnet18"),
        ("model: {backbone: vgg16}", "model.pretrained=true", r"model\.pretrained: there are no weights"),
        ("", "loss.correspondence=1", r"loss\.correspondence: is above 0, but there is no map"),
        ("", "loss.reconst=1", r"loss\.reconst: is above 0, but nothing draws"),
        ("loss: {normal: 0, edge: 0, laplace: 0, move: 0}", "loss.chamfer=0", r"loss: every term has weight 0"),
        ("", "loss.regions=[0.7, 0.7]", r"loss\.regions: adds up to 1\.4"),
        ("loss: {chamfer: 0}", "loss.regions=[0.1, 0]", r"loss\.regions: is set, but nothing draws points"),
        ("", "train.processes=3", r"train\.processes: 32 samples a step .* by 3 processes .*multiple of 3"),
        ("", "train.accumulate=5", r"train\.accumulate: .* in 5 passes"),
        ("", "evaluate.mapping=[dlib68]", r"evaluate\.mapping: is set without predictions"),
        ("evaluate: {predictions: [a]}", "evaluate.mapping=[auto, auto]", r"mapping: has 2 entries for 1 predictions"),
        ("predict: {workers: 2}", "predict.video=true", r"predict\.workers: is above 1 for a video"),
        ("", "template.kind=ellipsoid", r"template\.kind: faces want a template that is registered"),
        ("", "template.file=a.obj", r"template\.file: faces want a template that is registered"),
        (OBJECTS, "model.camera=crop", r"model\.camera: .*perspective camera, but model\.camera is crop"),
        (OBJECTS, "template.kind=semi_sphere", r"template\.kind: objects want an ellipsoid, but"),
        (OBJECTS, "loss.vertex=1", r"loss\.vertex: is above 0, but clouds have no vertices"),
        (OBJECTS, "loss.regions=[0.1, 0]", r"loss\.regions: is set, but clouds have no landmarks"),
        (
            OBJECTS,
            "augment.blur=0.1",
            r"augment\.blur: augment has blur above 0, but objects are trained on as they are",
        ),
        (OBJECTS, "evaluate.flip=true", r"evaluate\.flip: objects have no mirror image"),
        (OBJECTS, "evaluate.predictions=[a]", r"evaluate\.predictions: is set, but"),
        (OBJECTS + "seed: 1", "data.kind=folder", ""),
        (
            OBJECTS.replace("flip: 0", "flip: 0.5").replace("objects", "folder"),
            "seed=1",
            r"augment\.flip: .*camera stands",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_on_loading(folder, base, override, problem):
    write(folder, "a", base)
    overrides = [override] if override else []
    if not problem:
        assert load_config("a", overrides).seed == 1
        return
    with pytest.raises(InputError, match=problem) as caught:
        load_config("a", overrides)
    assert str(caught.value).startswith(("--set: ", f"{folder / 'a.yaml'}: "))


def test_of_settings_that_do_not_fit_the_one_that_was_set_is_named():
    with pytest.raises(InputError, match=r"^--set: data\.kind: objects have no mirror image"):
        load_config(None, ["data.kind=objects"])


def test_the_file_that_set_the_value_is_named(folder):
    write(folder, "old", "model: {decoder: true}\nloss: {reconst: 0}\n")
    write(folder, "young", "based_on: old.yaml\nloss: {reconst: 1}\n")
    with pytest.raises(InputError, match=rf"^{re.escape(str(folder / 'old.yaml'))}: model\.decoder: "):
        load_config("young")


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
def test_numbers_are_finite(value):
    with pytest.raises(InputError, match=r"train\.lr: .*finite|train\.lr: .*greater"):
        load_config(None, [f"train.lr={value}"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("-2.5e-3", -2.5e-3),
        (".5", 0.5),
        ("5.", 5.0),
        ("3", 3),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("012", "012"),
        ("1_000", "1_000"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("12:30", "12:30"),
        ("2020-01-02", "2020-01-02"),
        ("null", None),
        ("~", None),
        ("true", True),
        ("a b", "a b"),
        ("'1e-4'", "1e-4"),
        ("[1, 2e-1, x]", [1, 0.2, "x"]),
        ("", ""),
    ],
)
def test_scalars_are_read_as_python_would(text, value):
    read = parse_value("field", text)
    assert read == value
    assert type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_of_python_is_read_back(value):
    read = parse_value("field", repr(value))
    assert read == value
    assert type(read) is float


@pytest.mark.parametrize("text", ["train.lr", "=3", "train..lr=3", ".lr=1", "train.=1"])
def test_malformed_overrides_are_refused(text):
    with pytest.raises(InputError, match=r"^--set: .*not of the form a\.b=value"):
        load_config(None, [text])


@pytest.mark.parametrize("text", ["train.lr=[1", "train.lr={a: b", "train.lr='x"])
def test_broken_yaml_in_an_override_is_one_line(text):
    with pytest.raises(InputError, match=r"^--set: train\.lr: ") as caught:
        load_config(None, [text])
    assert "\n" not in str(caught.value)


def test_the_later_override_wins():
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\n", "expected"),
        ("- a\n- b\n", "name: value"),
        ("just text\n", "name: value"),
        ("seed: 1\nseed: 2\n", "given twice"),
        ("train: {lr: 1.0}\ntrain: {epochs: 1}\n", "given twice"),
        ("\x00", "special characters|unacceptable"),
        ("train: 3\n", r"train: .*object"),
        ("1: 2\n", "1: no such setting"),
        ("[1]: 2\n", "unhashable"),
        ("seed: !!binary aGVsbG8=\n", "seed: "),
        ("name: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_broken_files_are_one_line(folder, text, problem):
    write(folder, "broken", text)
    with pytest.raises(InputError, match=problem) as caught:
        load_config("broken")
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(folder):
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match=r"bytes\.yaml: .*(decode|special|unacceptable)"):
        load_config("bytes")


def test_bare_names_and_paths(folder, monkeypatch, tmp_path):
    path = write(folder, "face-lite", "seed: 5\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for source in ("face-lite", "configs/face-lite.yaml", path, str(path), "../configs/face-lite.yaml"):
        assert find_config(source) == path
    own = write(elsewhere, "own", "seed: 6\n")
    assert find_config("own.yaml") == own
    with pytest.raises(InputError, match=r"did you mean face-lite\?"):
        find_config("face_lit")
    with pytest.raises(InputError, match="known names: face-lite"):
        find_config("qqq")


@pytest.mark.parametrize("name", sorted(path.stem for path in (project_root() / "configs").glob("*.yaml")))
def test_tracked_configs_load_and_survive_the_round_trip(name, tmp_path):
    config = load_config(name)
    assert config.name == name
    assert load_config(save_config(config, tmp_path / "copy.yaml")) == config


def test_the_round_trip_keeps_awkward_values(tmp_path):
    # Texts that look like numbers, and numbers that PyYAML alone would read as texts.
    config = load_config(None, ["train.lr=1e-5", "train.init_from='1e-4'", "synth.out='null'", "data.store='Zoë: #x'"])
    assert config.train.init_from == "1e-4"
    saved = save_config(config, tmp_path / "x.yaml")
    assert load_config(saved) == config
    assert set(yaml.safe_load(saved.read_text(encoding="utf-8"))) == set(Config.model_fields)


def test_saving_leaves_no_temporary_file(tmp_path):
    save_config(Config(), tmp_path / "new" / "config.yaml")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.yaml"]


# "other" need not be one of a field's choices.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_the_hash_sees_every_field():
    config = Config()
    digest = config_hash(config)
    assert digest == config_hash(Config())
    assert re.fullmatch(r"[0-9a-f]{12}", digest)
    for field, value in leaves(config):
        match value:
            case bool():
                other = not value
            case int() | float():
                other = value + 1
            case str() | None:
                other = "other"
            case _:
                continue
        nested: object = other
        *parents, last = field.split(".")
        section = config
        for part in parents:
            section = getattr(section, part)
        nested = section.model_copy(update={last: other})
        for depth in range(len(parents), 0, -1):
            above = config
            for part in parents[: depth - 1]:
                above = getattr(above, part)
            nested = above.model_copy(update={parents[depth - 1]: nested})
        assert config_hash(nested) != digest, field


def test_resolve_counts_from_the_root_wherever_one_is(folder, monkeypatch, tmp_path):
    monkeypatch.chdir("/")
    assert resolve("data/raw") == tmp_path / "data" / "raw"
    assert resolve(tmp_path / "x") == tmp_path / "x"
    assert resolve("~/x") == Path.home() / "x"


def test_values_are_laid_over_a_config_and_checked():
    config = with_values(Config(seed=3), {"train.lr": 1e-4, "model.hidden": [8, 8, 8, 8], "name": "a/b"}, "--grid")
    assert (config.seed, config.train.lr, config.model.hidden, config.name) == (3, 1e-4, (8, 8, 8, 8), "a/b")
    assert config.train == Config().train.model_copy(update={"lr": 1e-4})
    with pytest.raises(InputError, match=r"--grid: train\.epoch: no such setting \(did you mean train\.epochs\?\)"):
        with_values(Config(), {"train.epoch": 1}, "--grid")
