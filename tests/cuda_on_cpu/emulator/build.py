"""Builds emulated kernels with g++.

Three builds of one source:

    plain      fast, for whole batches
    checked    every load and store is seen: bounds, alignment, uninitialised shared memory, data
               races, bytes moved (source/watch.h)
    sanitized  AddressSanitizer and UndefinedBehaviorSanitizer; a process that loads it must have
               libasan preloaded (sanitized_environment)

Results are kept by a hash of what went in, so a source is compiled once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import gettempdir

from emulator.translate import translate

HERE = Path(__file__).parent
INCLUDE = HERE / "include"
SOURCE = HERE / "source"

COMPILER = shutil.which("g++")
_COMMON = ("-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique", "-fvisibility=hidden")
_INSTRUMENTED = {
    "plain": ("-O2",),
    # Aggregates stay whole, so that a 16-byte load is seen as one.
    "checked": (
        "-O1",
        "-g1",
        "-fno-tree-sra",
        "-fsanitize=thread,alignment",
        "--param",
        "tsan-instrument-func-entry-exit=0",
    ),
    "sanitized": (
        "-O1",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ),
}
BUILDS = tuple(_INSTRUMENTED)
# Exit status of a process in which a sanitizer found something.
SANITIZER_EXIT = 66


class BuildError(RuntimeError):
    """g++ refused a source; the message is its own."""


def cache_folder() -> Path:
    """Where builds are kept: MIXPIPE_EMULATOR_CACHE, or a folder of this user in /tmp."""
    given = os.environ.get("MIXPIPE_EMULATOR_CACHE")
    folder = Path(given) if given else Path(gettempdir()) / f"mixpipe-emulator-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: Sequence[str | Path], source: str | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], input=source, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stderr[-8000:]}")
    return done.stdout


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """One process at a time makes a target; the others find it made."""
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(name: str, ingredients: Sequence[str], command: Sequence[str | Path], text: str) -> Path:
    """The file that the command makes of the text (read from standard input), from the cache."""
    key = hashlib.sha256("\0".join([*ingredients, *map(str, command), text]).encode())
    target = cache_folder() / f"{key.hexdigest()[:24]}-{name}"
    if not target.exists():
        with locked(target):
            if not target.exists():
                partial = target.with_suffix(f".partial{target.suffix}")
                _run([*command, "-o", partial, "-x", "c++", "-"], text)
                partial.replace(target)
    return target


@cache
def _emulator_text() -> str:
    files = sorted([*INCLUDE.rglob("*.h"), *SOURCE.iterdir()])
    return "\0".join(file.read_text() for file in files)


def _runtime_object(build: str) -> Path:
    """The emulator itself. Its own accesses are not watched, but it must know its build."""
    flags = [f"-I{INCLUDE}", f"-I{SOURCE}", "-Wall", "-Wextra"]
    flags += ["-O2", "-DEMULATOR_CHECKED"] if build == "checked" else _INSTRUMENTED[build]
    return _made(
        f"{build}-runtime.o",
        [_emulator_text()],
        [COMPILER, *_COMMON, *flags, "-c"],
        "".join(f'#include "{part.name}"\n' for part in sorted(SOURCE.glob("*.cpp"))),
    )


def _preprocess(source: str, options: Sequence[str], folder: Path | None) -> str:
    include = [f"-I{INCLUDE}", *([f"-I{folder}"] if folder else [])]
    command = [COMPILER, "-E", "-std=c++17", "-D__CUDACC__=12", *include, *options]
    return _run([*command, "-include", "cuda_runtime.h", "-x", "c++", "-"], source)


def _compiled(text: str, build: str, shared_library: bool, name: str) -> Path:
    """A translated source linked with the emulator."""
    runtime = _runtime_object(build)
    erased = ["-D__global__=", "-D__launch_bounds__(...)="]
    compiled = _made(
        f"{name}.o",
        [_emulator_text()],
        [COMPILER, *_COMMON, *_INSTRUMENTED[build], *erased, "-w", "-c"],
        text,
    )
    target = compiled.with_suffix(".so" if shared_library else ".exe")
    if not target.exists():
        with locked(target):
            if not target.exists():
                # Never with -fsanitize=thread: its calls are meant for the emulator.
                sanitize = ["-fsanitize=address,undefined"] if build == "sanitized" else []
                form = ["-shared", "-Wl,-Bsymbolic"] if shared_library else []
                partial = target.with_suffix(".partial")
                _run([COMPILER, *form, *sanitize, compiled, runtime, "-o", partial])
                partial.replace(target)
    return target


def library(
    source: str,
    *,
    build: str = "plain",
    options: Sequence[str] = (),
    expressions: Sequence[str] = (),
    folder: Path | None = None,
) -> Path:
    """Compiles a CUDA source (text) to a shared library of its kernels.

    `options` are -D and -I as NVRTC takes them; `expressions` are instances of kernel templates;
    `folder` is where the source's own includes lie. They are read once a process, so a changed
    header needs a folder of its own.
    """
    return _library(source, build, tuple(options), tuple(expressions), folder)


@cache
def _library(
    source: str,
    build: str,
    options: tuple[str, ...],
    expressions: tuple[str, ...],
    folder: Path | None,
) -> Path:
    text = translate(_preprocess(source, options, folder), expressions)
    return _compiled(text, build, True, f"kernels-{build}")


def program(path: Path, *, build: str = "plain", options: Sequence[str] = ()) -> Path:
    """Compiles a stand-alone CUDA program (with a main and <<<>>> launches)."""
    text = translate(_preprocess(path.read_text(), options, path.parent))
    return _compiled(text, build, False, f"{path.stem}-{build}")


def sanitized_environment(seed: int = 0) -> dict[str, str]:
    """Environment of a process that loads or is a sanitized build.

    libstdc++ too comes first, as libasan looks for its functions when it starts.
    """
    names = ("libasan.so", "libstdc++.so")
    libraries = [_run([COMPILER, f"-print-file-name={name}"]).strip() for name in names]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode={SANITIZER_EXIT}",
        "UBSAN_OPTIONS": f"exitcode={SANITIZER_EXIT}",
        "EMULATOR_SEED": str(seed),
    }
