"""What no single module can say of itself: packaging, notebooks, layering, and what is in the repository."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from p2m_core.config.loading import load_config
from p2m_workbench.runs.notebooks import COMMON, read_parameters

ROOT = Path(__file__).resolve().parents[1]
CARD = {"torch", "torchvision", "numpy", "jupyterlab", "ipywidgets", "pythreejs", "matplotlib", "trimesh"}
CARD |= {"pandas", "papermill"}
PACKAGES = ("p2m_core", "p2m_synth", "p2m_workbench")
HEAVY = ("matplotlib", "pandas", "trimesh", "cv2", "scipy", "ipywidgets", "pythreejs", "numba", "papermill", "IPython")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_preprocess", "02_train", "03_evaluate", "04_inspect", "05_predict", "06_objects"]


def modules() -> list[Path]:
    """Every Python file of the packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def requirements(section: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in section}


RUNTIME = requirements(PROJECT["project"]["dependencies"])
TEST = requirements(PROJECT["project"]["optional-dependencies"]["test"])
LOCK = requirements(
    [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1] not in ("", "#")]
)


# ------------------------------------------------------------------------------------------------ packaging


def test_every_dependency_has_a_lower_bound():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) >= {"cluster", "onnx", "test"}
    for name, wanted in (RUNTIME | requirements([line for extra in extras.values() for line in extra])).items():
        assert any(spec.operator == ">=" for spec in wanted.specifier), name


def test_packages_beyond_the_card_say_what_code_they_save():
    assert set(RUNTIME) >= CARD
    lines = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[0].splitlines()
    for name in set(RUNTIME) - CARD:
        [line] = [line for line in lines if re.match(rf'\s+"{name}\W', line)]
        assert re.search(r",\s+# \w.{10}", line), name


def test_the_lock_pins_what_pyproject_asks_for():
    for name, pinned in LOCK.items():
        assert [spec.operator for spec in pinned.specifier] == ["=="], name
        assert not pinned.url, name
    for name, wanted in (RUNTIME | TEST).items():
        [pin] = LOCK[name].specifier
        assert wanted.specifier.contains(pin.version), f"{name} {pin.version}"
    assert str(LOCK["torch"].specifier) == "==2.14.1"
    assert str(LOCK["torchvision"].specifier) == "==0.29.1"


def test_the_lock_leaves_the_cuda_packages_to_torch():
    # Otherwise TORCH_INDEX could not choose a CPU build.
    assert not [name for name in LOCK if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_conda_environment_installs_this_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    [python] = [line.partition("=")[2].strip("=") for line in conda if line.startswith("python")]
    assert python == "3.11"
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(python)
    assert "pip" in conda
    [editable] = pip["pip"]
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", editable)[1].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    assert "test" in extras


def test_pre_commit_uses_the_locked_versions():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for repo in hooks:
        name = {"ruff-pre-commit": "ruff"}.get(repo["repo"].rsplit("/", 1)[1], repo["repo"].rsplit("/", 1)[1])
        assert str(LOCK[name].specifier) == f"=={repo['rev'].lstrip('v')}"


def test_package_data_is_named_in_pyproject():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for path in tracked():
        package = path.parts[0]
        if package in PACKAGES and path.suffix != ".py":
            assert any(path.relative_to(package).match(pattern) for pattern in patterns[package]), path


def test_every_package_folder_is_a_package():
    for path in modules():
        assert (path.parent / "__init__.py").exists(), path


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    [phony] = re.findall(r"^\.PHONY: (.+)$", text, re.M)
    documented = re.findall(r"^([a-z-]+):.*## \w", text, re.M)
    assert phony.split() == documented
    assert set(documented) >= {"help", "demo", "test", "test-all", "test-gpu", "lint", "bench", "notebooks", "weights"}
    if shutil.which("make"):
        shown = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
        assert all(re.search(rf"^{target} +\w", shown, re.M) for target in documented)


def test_make_demo_only_prepares_and_calls():
    text = (ROOT / "Makefile").read_text()
    [recipe] = re.findall(r"^demo: \$\(STAMP\).*\n((?:\t.+\n)+)", text, re.M)
    assert recipe.strip() == "$(BIN)/python -m p2m_workbench demo"


def test_ci_runs_lint_and_tests_without_a_terminal():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    for wanted in ("set -euo pipefail", "</dev/null", "make lint", "make test"):
        assert wanted in text


# ------------------------------------------------------------------------------------------------ layering


def loaded_after(statement: str) -> set[str]:
    """Modules that a statement loads in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(answer.stdout.split())


def test_import_loads_no_more_than_torch_and_numpy():
    assert not loaded_after("import p2m_core, p2m_synth, p2m_workbench") & set(HEAVY)


def test_predicting_loads_nothing_that_a_first_photo_would_wait_for():
    ours = loaded_after("from p2m_workbench import predict") - loaded_after("import torch")
    unneeded = {
        "torchvision",
        "torch._dynamo",
        "torch._inductor",
        "torch.onnx",
        "triton",
        "pandas",
        "matplotlib",
        "trimesh",
    }
    unneeded |= {"scipy.optimize", "scipy.stats", "scipy.ndimage", "tensorboard", "papermill", "IPython", "ipywidgets"}
    assert not ours & unneeded
    assert not {"scipy.stats", "pandas", "matplotlib", "torchvision"} & loaded_after(
        "import p2m_workbench.photos.batch"
    )


def test_public_names_are_there():
    for package in (importlib.import_module(name) for name in ("p2m_core", "p2m_workbench")):
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            package.nonsense


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_widgets_live_in_viewing_alone():
    for path in modules():
        if path.parent.name != "viewing":
            assert not imports_of(path) & {"ipywidgets", "pythreejs", "IPython", "ipydatawidgets"}, path


def test_every_import_is_declared():
    # A package that merely happens to be there, as a dependency of another one, may go with the next release.
    of_module = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "matplotlib", "IPython": "jupyterlab"}
    with_jupyter = {"nbformat", "nbclient", "jupyter_client", "traitlets"}  # what papermill is made of
    optional = {"triton", "dask", "distributed", "onnx", "onnxruntime", "onnxscript"}
    for path in modules():
        for module in imports_of(path) - set(sys.stdlib_module_names) - set(PACKAGES) - with_jupyter - optional:
            assert canonicalize_name(of_module.get(module, module)) in RUNTIME, f"{path}: {module}"


def lines_of(*paths: str) -> int:
    return sum(len(path.read_text().splitlines()) for pattern in paths for path in (ROOT / "p2m_core").glob(pattern))


@pytest.mark.parametrize(
    ("most", "paths"),
    [
        (7000, ["**/*.py"]),
        (1900, ["network/*.py", "chamfer/*.py", "geometry/template*.py"]),
    ],
)
def test_the_core_is_thin(most, paths):
    assert lines_of(*paths) <= most


def test_modules_are_not_called_utils():
    assert not [path for path in tracked() if path.stem in ("utils", "helpers", "util", "misc", "common")]


# ------------------------------------------------------------------------------------------------ repository


def tracked() -> list[Path]:
    """Files that git tracks or would add."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"git does not list the files here: {answer.stderr.strip()}")
    return [Path(name) for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_one_machine_is_tracked():
    pattern = re.compile(r"(?<![\w.~}/])/(?:home|root|work|Users)/\w|[A-Z]:\\\\?Users")
    for path in tracked():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        assert not pattern.search(text), path


def test_no_data_is_tracked():
    allowed = (Path("data/README.md"), Path("outputs/.gitkeep"))
    for path in tracked():
        if path.parts[0] in ("data", "outputs"):
            assert path in allowed or path.is_relative_to("data/splits"), path
        assert (ROOT / path).stat().st_size < 25e6, path
        assert "AFLW2000" not in path.name or path.suffix == ".txt", path


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_load_and_say_what_they_are_for(path):
    assert load_config(path).name == path.stem
    assert path.read_text().startswith("# ")


# ------------------------------------------------------------------------------------------------ notebooks


def test_the_notebooks_are_there_in_order():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_notebooks_are_stripped(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert "widgets" not in notebook.metadata
    assert not [key for key in notebook.metadata if key == "papermill"]


def test_nbstripout_agrees():
    if NOTEBOOKS:
        subprocess.run([sys.executable, "-m", "nbstripout", "--verify", *NOTEBOOKS], check=True, capture_output=True)


def test_the_first_code_cell_and_no_other_has_the_parameters(notebook):
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    assert tagged == code[:1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_six_literals_at_most(path):
    parameters = read_parameters(path)
    assert list(parameters)[:2] == list(COMMON)
    assert len(parameters) <= 6
    assert isinstance(parameters["overrides"], list)
    load_config(parameters["config"], parameters["overrides"])


def test_cells_are_short_and_prose_comes_first(notebook):
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.source
            assert before.cell_type == "markdown", f"no sentence before: {cell.source}"


def test_titles_are_one_h1_and_numbered_h2s(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert notebook.cells[0].source.startswith("# ")
    assert len(re.findall(r"^# ", prose, re.M)) == 1
    numbers = re.findall(r"^## (\d*)", prose, re.M)
    assert numbers == [str(i + 1) for i in range(len(numbers))]


def test_notebooks_hold_no_classes(notebook):
    # A loop over data, a class, or what has a second caller belongs in p2m_core.
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
            kinds = {type(node) for node in ast.walk(ast.parse(source))}
            assert not kinds & {ast.ClassDef, ast.While}, cell.source
