"""docs/design.md: a layer imports only from the layers before it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mixpipe"
LAYERS = ["_C", "kernels", "data", "plan", "decode", "target", "trace", "ahead", "blocks", "loader"]
LAYERS += ["masks", "nn", "report", "train", "bench", "doctor", "cli", "__main__"]
INDEPENDENT = {"data": {"kernels"}, "plan": {"data"}}


def layer_of(module):
    return module.split(".")[1] if "." in module else None


def imports(path):
    """The layers that a file imports from, with the line of each."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{path}:{node.lineno}: a relative import leaves its package"
            if node.level:
                assert path.parent != PACKAGE, f"{path}:{node.lineno}: a layer imported relatively"
            elif node.module == "mixpipe":
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif node.module and node.module.startswith("mixpipe."):
                yield layer_of(node.module), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("mixpipe."):
                    yield layer_of(alias.name), node.lineno


def sources():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_before_its_own(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in LAYERS, f"{own} is not in the table of layers: add it here and in docs/design.md"
    allowed = set(LAYERS[: LAYERS.index(own) + 1]) - INDEPENDENT.get(own, set())
    for layer, line in imports(path):
        if layer == "__version__":
            continue
        assert layer in allowed, f"{path}:{line} imports from the later layer {layer}"


def test_every_layer_has_files():
    present = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sources()}
    assert present == set(LAYERS) - {"_C"}
