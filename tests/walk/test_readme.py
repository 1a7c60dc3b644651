"""README says what is so: its figures are those of the released checkpoint, its subjects exist."""

import re
from pathlib import Path

import editing_tables
import pytest
import reading_tables

import metamodel
from data_gen.config import ZooConfig
from data_gen.population import shard_specs
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.card import SUMMARISED
from metamodel.evaluation.card_tables import summary
from metamodel.evaluation.editing.card import kinds_table, rules_table
from metamodel.evaluation.matching import card as matching_card
from metamodel.evaluation.report import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RELEASED = [ROOT / "checkpoints" / name for name in ("function", "function-small")]


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
@pytest.mark.parametrize("metric", SUMMARISED)
def test_the_figures_are_those_of_the_released_checkpoint(metric, released):
    table = summary(load(released), metric)
    assert table in README
    assert table in (released / "README.md").read_text()


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
def test_the_released_checkpoint_loads_and_names_the_commands_that_made_it(released):
    assert len(metamodel.load(released).labels) == 21
    card = (released / "README.md").read_text()
    assert "```bash\npython -m metamodel.train" in card


def test_the_tables_of_the_page_on_reading_are_those_of_the_released_checkpoint():
    page = (ROOT / "docs/reading.md").read_text()
    tables = reading_tables.tables(load(ROOT / "checkpoints/function"))
    assert len(tables) == 9
    assert [name for name, table in tables.items() if table not in page] == []


def test_the_page_on_editing_and_the_card_say_what_the_released_editor_scores():
    released = ROOT / "checkpoints/editing"
    report, card = load(released), (released / "README.md").read_text()
    page = (ROOT / "docs/editing.md").read_text()
    tables = editing_tables.tables(report)
    assert [name for name, table in tables.items() if name != "rules" and table not in page] == []
    assert kinds_table(report) in card
    assert rules_table(report) in card
    assert metamodel.load(released).checkpoint.zoo["name"] == "edits-small"
    assert sum(path.stat().st_size for path in released.iterdir()) < 10 * 2**20


def test_the_page_on_matching_and_the_card_say_what_the_released_matcher_scores():
    released = ROOT / "checkpoints/matching"
    report, card = load(released), (released / "README.md").read_text()
    page = (ROOT / "docs/matching.md").read_text()
    for table in (
        matching_card.kinds_table(report),
        *map(released_summary(report), matching_card.SUMMARISED),
    ):
        assert table in page
        assert table in card
    assert metamodel.load(released).checkpoint.zoo["name"] == "pairs-medium"
    assert sum(path.stat().st_size for path in released.iterdir()) < 10 * 2**20


def released_summary(report):
    return lambda metric: summary(report, metric, floor="random")


def test_the_subjects_of_the_examples_are_in_the_default_zoo():
    parser = command_parser(prog="x", description="")
    config, _ = parse_config(parser, ZooConfig, ["--config", str(ROOT / "configs/zoo/small.yaml")])
    ids = {subject.id for shard in shard_specs(config) for subject in shard.subjects}
    named = re.findall(r"data/small#([\w-]+)", README)
    assert named
    assert set(named) <= ids


def test_the_files_of_the_map_exist():
    for path in re.findall(r"`((?:metamodel|data_gen|configs|docs|benchmarks|tests)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.stem
)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page):
    wanted = 0
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            wanted = 0
            continue
        cells = len(re.sub(r"\\\||`[^`]*`", "", line).strip("|").split("|"))
        wanted = wanted or cells
        assert cells == wanted, line
