"""Tables: what they mean, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlsuite.bench.table import read_table
from rlsuite.errors import UserError
from tests.bench.fake_cells import ALGORITHM, write_table

HEAD = 'name = "t"\nalgorithms = ["toy.py"]\ntasks = ["a/b-v0", "c/d-v0"]\nseeds = 2\n'


def test_cells_in_order_with_the_strongest_section_winning(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "toy.py").write_text(ALGORITHM + "# another file")
    path = write_table(
        tmp_path,
        """
        algorithms = { mine = "./toy.py", other = "sub/toy.py" }
        tasks = ["a/b-v0", "c/d-v0"]
        seeds = [3, 1]
        [config]
        updates = 10
        alpha = 1
        final_episodes = 7
        [algorithm.mine]
        updates = 20
        [task."c/d-v0"]
        updates = 30
        eval-every = 3
        [task."c/d-v0".mine]
        updates = 40
        """,
    )
    table = read_table(path)
    assert (table.name, table.title) == ("t", "")
    assert [(c.seed, c.task, c.label, c.updates) for c in table.cells] == [
        (3, "a/b-v0", "mine", 20),
        (3, "a/b-v0", "other", 10),
        (3, "c/d-v0", "mine", 40),
        (3, "c/d-v0", "other", 30),
        (1, "a/b-v0", "mine", 20),
        (1, "a/b-v0", "other", 10),
        (1, "c/d-v0", "mine", 40),
        (1, "c/d-v0", "other", 30),
    ]
    last = table.cells[-1]
    assert last.resolved.config.alpha == 1.0 and isinstance(last.resolved.config.alpha, float)
    assert last.resolved.settings.final_episodes == 7 and last.resolved.settings.eval_every == 3
    assert table.cells[0].resolved.settings.eval_every != 3


def test_arguments_give_the_same_run_from_the_command_line(tmp_path: Path) -> None:
    import argparse

    from rlsuite.harness.config import add_flags, resolve

    table = read_table(
        write_table(
            tmp_path, HEAD.replace('["toy.py"]', '{ mine = "toy.py" }') + "[config]\nalpha = -1e-3\nthreads = 2"
        )
    )
    for cell in table.cells:
        source, *flags = cell.arguments()
        assert source == str(tmp_path / "toy.py")
        parser = argparse.ArgumentParser()
        add_flags(parser, cell.resolved.algorithm)
        again = resolve(cell.resolved.algorithm, vars(parser.parse_args(flags)))
        assert again == cell.resolved
        assert again.slug == cell.folder and cell.folder.startswith("mine-")


def test_labels_make_two_columns_of_one_algorithm(tmp_path: Path) -> None:
    text = HEAD.replace('["toy.py"]', '{ weak = "toy.py", strong = "toy.py" }') + "[algorithm.strong]\nalpha = 9"
    cells = read_table(write_table(tmp_path, text)).cells
    assert {(c.label, c.resolved.label, c.resolved.config.alpha) for c in cells} == {
        ("weak", "weak", 2.5),
        ("strong", "strong", 9.0),
    }


def test_a_changed_setting_is_another_cell_and_a_changed_file_too(tmp_path: Path) -> None:
    def folders(text: str, algorithm: str = ALGORITHM) -> set[str]:
        return {cell.folder for cell in read_table(write_table(tmp_path, text, toy=algorithm)).cells}

    first = folders(HEAD)
    assert first == folders(HEAD + 'title = "other words"')
    assert first.isdisjoint(folders(HEAD + "[config]\nalpha = 3"))
    assert first.isdisjoint(folders(HEAD, ALGORITHM + "\n# edited"))
    assert first < folders(HEAD.replace("seeds = 2", "seeds = 3"))
    assert first == folders(HEAD + "[config]\nalpha = 2.5"), "a default written out is no other run"


def test_algorithms_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('algorithms = ["bc"]\ntasks = ["rlsuite/hopper/medium-v0"]\nseeds = [0]\n[config]\nupdates = 7')
    (cell,) = read_table(path).cells
    assert cell.label == "bc" and cell.updates == 7
    assert cell.arguments()[0] == "bc" and "--dataset=rlsuite/hopper/medium-v0" in cell.arguments()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "sedes = 3", ["t.toml", "'sedes'", "'seeds'"]),
        (HEAD + "[config]\nupdatse = 3", ["[config] of t.toml", "'updatse'", "'updates'", "[algorithm.toy]"]),
        (HEAD + "[algorithm.tyo]\nalpha = 1", ["[algorithm]", "'tyo'", "'toy'"]),
        (HEAD + "[algorithm.toy]\nalpah = 1", ["[algorithm.toy] of t.toml", "'alpah'", "'alpha'"]),
        (HEAD + '[task."a/b-v1"]\nalpha = 1', ["[task]", "'a/b-v1'", "'a/b-v0'"]),
        (HEAD + '[task."a/b-v0".tyo]\nalpha = 1', ['[task."a/b-v0"]', "'tyo'", "'toy'"]),
        (HEAD + '[task."a/b-v0".toy]\nalhpa = 1', ['[task."a/b-v0".toy] of t.toml', "'alhpa'", "'alpha'"]),
        (HEAD + '[config]\nupdates = "many"', ["[config] of t.toml", "updates", "whole number"]),
        (HEAD + "[config]\nupdates = [1]", ["[config] of t.toml"]),
        (HEAD + "[config]\nupdates = 0", ["t.toml", "updates", "at least 1"]),
        (HEAD + "[config]\nalpha = true", ["[config] of t.toml", "alpha"]),
        (HEAD + '[config]\ndataset = "x"', ["[config] of t.toml", "'dataset'", "`tasks`"]),
        (HEAD + "[config]\nseed = 1", ["'seed'", "`seeds`"]),
        (HEAD + '[config]\nlabel = "x"', ["'label'", "`algorithms`"]),
        (HEAD.replace("seeds = 2", "seeds = 0"), ["seeds"]),
        (HEAD.replace("seeds = 2", "seeds = [0, 0]"), ["seeds", "0 twice"]),
        (HEAD.replace("seeds = 2", "seeds = [true]"), ["seeds"]),
        (HEAD.replace("seeds = 2", "seeds = [-1]"), ["seeds"]),
        (HEAD.replace('"c/d-v0"', '"a/b-v0"'), ["tasks", "'a/b-v0' twice"]),
        (HEAD.replace('["a/b-v0", "c/d-v0"]', "[]"), ["tasks"]),
        (HEAD.replace('["toy.py"]', "[]"), ["algorithms"]),
        (HEAD.replace('["toy.py"]', '["td3bc"]'), ["'td3bc'", "'td3_bc'"]),
        (HEAD.replace('["toy.py"]', '["gone.py"]'), ["gone.py"]),
        (HEAD.replace('["toy.py"]', '["broken.py"]'), ["broken.py", "NameError"]),
        (HEAD.replace('["toy.py"]', '["toy.py", "./toy.py"]'), ["algorithms", "labels"]),
        (HEAD.replace('["toy.py"]', '{ a = "toy.py", "b/c" = "toy.py" }'), ["'b/c'", "label"]),
        (HEAD.replace('name = "t"', 'name = "../t"'), ["name"]),
        (HEAD + "name = ", ["t.toml", "TOML"]),
    ],
)
def test_bad_tables_get_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write_table(tmp_path, text, toy=ALGORITHM, broken="nonsense")
    with pytest.raises(UserError) as error:
        read_table(path)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_one_run_under_two_labels_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path, HEAD.replace('["toy.py"]', '{ a = "toy.py", b = "./toy.py" }'))
    with pytest.raises(UserError, match=r"'b' and 'a' are the same runs"):
        read_table(path)


def test_two_labels_may_coincide_on_a_task_but_not_on_all(tmp_path: Path) -> None:
    text = HEAD.replace('["toy.py"]', '{ a = "toy.py", b = "./toy.py" }') + '[task."c/d-v0".b]\nalpha = 1\n'
    cells = read_table(write_table(tmp_path, text)).cells
    assert [len({c.run_id for c in cells if c.task == task}) for task in ("a/b-v0", "c/d-v0")] == [2, 4]
    assert len({c.folder for c in cells}) == len(cells) == 8


def test_a_table_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_table(tmp_path / "gone.toml")
    (tmp_path / "t.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text file"):
        read_table(tmp_path / "t.toml")


@pytest.mark.parametrize("name", ["quick", "hopper_medium"])
def test_the_tables_of_the_repository_are_sound(name: str) -> None:
    table = read_table(Path(__file__).parents[2] / "benchmarks" / f"{name}.toml")
    assert table.name == name
    assert {cell.label for cell in table.cells} == {"bc", "td3_bc", "prdc"}
