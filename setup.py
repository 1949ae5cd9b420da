"""Builds the extension `mixpipe._C` with CMake; everything else is in pyproject.toml.

Works for `pip install .`, `pip install -e .` (the extension is then built into `mixpipe/`), and for
wheels, with and without build isolation. CUDA is optional: see CMakeLists.txt.

Environment: CMAKE_ARGS adds arguments to the CMake call, for example
`-DCMAKE_CUDA_ARCHITECTURES=90` or `-DMIXPIPE_CUDA=OFF`.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def tool(name: str) -> str:
    """The path of a build tool: beside this interpreter, on the PATH, or in its Python package."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return str(beside)
    on_path = shutil.which(name)
    if on_path is not None:
        return on_path
    module = __import__(name)
    directory = getattr(module, "CMAKE_BIN_DIR", None) or getattr(module, "BIN_DIR", None)
    if directory is None:
        raise SystemExit(f"mixpipe needs {name} to build its extension: pip install {name}")
    return str(Path(directory) / name)


class CMakeBuild(build_ext):
    """Configures and builds the CMake project into the folder where setuptools wants the module."""

    def build_extension(self, ext: Extension) -> None:
        """Builds one extension (there is one)."""
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # One build folder per interpreter, so that rebuilding after a change is incremental.
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        cmake = tool("cmake")
        configure = [
            cmake,
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DMIXPIPE_OUTPUT_DIRECTORY={output}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        # Incremental; a cache that no longer fits (a moved folder, say) is started anew.
        if subprocess.run(configure).returncode != 0:
            subprocess.run([*configure, "--fresh"], check=True)
        subprocess.run([cmake, "--build", str(build)], check=True)

    def copy_extensions_to_source(self) -> None:
        """In place, the fatbins go along with the extension."""
        super().copy_extensions_to_source()
        built = Path(self.build_lib) / "mixpipe" / "kernels" / "fatbin"
        if built.exists():
            target = ROOT / "mixpipe" / "kernels" / "fatbin"
            shutil.copytree(built, target, dirs_exist_ok=True)


setup(ext_modules=[Extension("mixpipe._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
