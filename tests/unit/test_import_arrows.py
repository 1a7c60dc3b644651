"""The arrows of the design, read from the imports. The arrow from meta-models to labellers is a leak."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = [
    {"config", "axes"},
    {"subjects"},
    {"circuits"},
    {"features", "triples"},
    {"analogy"},
    {"losses", "networks"},
    {"objectives", "baselines"},
    {"training"},
    {"evaluation"},
]
"""Each may import what stands before it; `features` and `triples` do not see each other. What is not listed,
the commands and the public surface, may import everything."""
WORKSHOP_MAY_IMPORT = {"config", "subjects", "circuits", "triples", "features", "analogy", "losses"}
LIGHTNING_ALLOWED = {"objectives", "training"}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(name: str) -> int | None:
    return next((i for i, layer in enumerate(LAYERS) if name in layer), None)


def violations(package: str, room: str | None, imported: set[str]) -> list[str]:
    """What a file in `package`/`room` must not import, in words."""
    bad = []
    for module in sorted(imported):
        top, _, rest = module.partition(".")
        target = rest.split(".")[0]
        if package == "metamodel" and top == "data_gen" and room != "train":
            bad.append(f"imports {module}: meta-models must not see the labeller")
        if package == "data_gen" and top == "metamodel" and target and target not in WORKSHOP_MAY_IMPORT:
            bad.append(f"imports {module}: not among what the workshop may import")
        if top == "lightning" and not (package == "metamodel" and room in LIGHTNING_ALLOWED):
            bad.append(f"imports {module}: lightning belongs to objectives and training")
        if package == "metamodel" and top == "metamodel" and target != room:
            own, other = layer_of(room or ""), layer_of(target)
            if own is not None and other is not None and other >= own:
                bad.append(f"imports {module}: an arrow points up or sideways")
            if (
                own is not None
                and other is None
                and target
                and (ROOT / "metamodel" / f"{target}.py").exists()
            ):
                bad.append(f"imports {module}: a command")
    return bad


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ["metamodel", "data_gen"])
def test_imports_follow_the_arrows(package):
    problems = []
    for path in sources(package):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        room = parts[0] if parts[0] != "__init__" else None
        problems += [f"{path.relative_to(ROOT)} {v}" for v in violations(package, room, imports_of(path))]
    assert not problems, "\n".join(problems)


def test_one_file_imports_wandb_another_ray_and_configuration_imports_no_torch():
    all_sources = [p for package in ("metamodel", "data_gen") for p in sources(package)]
    for module in ("wandb", "ray"):
        found = [p for p in all_sources if any(m.split(".")[0] == module for m in imports_of(p))]
        assert len(found) == 1, (module, found)
    torch_free = [*sources("metamodel/config"), ROOT / "data_gen/config.py"]
    heavy = {"torch", "lightning", "transformers", "transformer_lens", "datasets", "numpy"}
    for path in torch_free:
        assert not heavy & {m.split(".")[0] for m in imports_of(path)}, path


@pytest.mark.parametrize(
    ("package", "room", "module"),
    [
        ("metamodel", "features", "data_gen.labels"),
        ("metamodel", "features", "metamodel.triples.schema"),
        ("metamodel", "subjects", "metamodel.circuits"),
        ("metamodel", "networks", "metamodel.train"),
        ("metamodel", "baselines", "lightning"),
        ("data_gen", "build", "metamodel.networks"),
    ],
)
def test_a_planted_wrong_import_is_found(package, room, module):
    assert violations(package, room, {module})
