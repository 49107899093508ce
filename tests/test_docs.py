"""Documents: what they say is run, and what they name is there."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "data/README.md", "benchmarks/README.md", "slurm/README.md")]
PAGES += [ROOT / "p2m_core/weights/README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {  # of what a researcher types first
    "p2m_core.chamfer": ("nearest", "chamfer_distance"),
    "p2m_core.config.loading": ("load_config",),
    "p2m_core.data": ("open_store",),
    "p2m_core.geometry.crop": ("crop_matrix",),
    "p2m_core.geometry.rasterizer": ("rasterize",),
    "p2m_core.geometry.similarity": ("umeyama",),
    "p2m_core.geometry.template": ("Template",),
    "p2m_core.geometry.template_files": ("load_template",),
    "p2m_core.inference": ("open_network", "predict_crops"),
    "p2m_core.metrics": ("nme68_2d",),
    "p2m_core.morphable.registration": ("face_template",),
    "p2m_core.network.losses": ("MeshLoss",),
    "p2m_core.network.model": ("Pixel2Mesh",),
    "p2m_workbench.photos.predict": ("predict",),
}
FIXTURES = {"open_store": {"config": "tiny_config", "_": "store"}, "face_template": {"face_model": "face_model"}}


def failures(test: doctest.DocTest) -> str:
    """What went wrong in the examples of a docstring or page."""
    lines: list[str] = []
    assert test.examples, f"{test.name} has no example"
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=lines.append)
    return "".join(lines)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in EXAMPLES for name in EXAMPLES[module]])
def test_examples_in_docstrings(request, module, name):
    home = importlib.import_module(module)
    given = {key: request.getfixturevalue(fixture) for key, fixture in FIXTURES.get(name, {}).items()}
    text = getattr(home, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {**vars(home), **given}, name, home.__file__, 0)
    assert not failures(test)


def test_examples_on_the_page_of_conventions():
    path = ROOT / "docs/conventions.md"
    assert not failures(doctest.DocTestParser().get_doctest(path.read_text(), {}, path.name, str(path), 0))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for path in re.findall(r"`(?:python )?((?:p2m_\w+|tests|benchmarks|configs|docs|notebooks)/[\w/.-]+)", text):
        assert (ROOT / path).exists() or path == "docs/api/", path
    for module in re.findall(r"(?:from|python -m) (p2m_\w+(?:\.\w+)*)", text):
        importlib.import_module(module)


def test_the_readme_is_short_enough_to_be_read():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_api_pages(tmp_path):
    subprocess.run([sys.executable, ROOT / "docs/build_api.py", tmp_path, "p2m_core"], check=True, cwd=ROOT)
    for module in ("p2m_core", "p2m_core/geometry/camera", "p2m_core/chamfer/torch_chunked"):
        assert (tmp_path / f"{module}.html").is_file(), module
    assert "nearest neighbour" in (tmp_path / "p2m_core/chamfer.html").read_text()
    assert 'id="Pixel2Mesh"' in (tmp_path / "p2m_core.html").read_text()
