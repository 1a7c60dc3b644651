"""Training curves: of every attempt, the last of which counts; and nothing where nothing was logged."""

from metamodel.evaluation.curves import draw_curves, read_curves


def test_curves_of_interrupted_attempts_are_joined(tmp_path):
    (tmp_path / "metrics-1.csv").write_text(
        "epoch,loss/train,loss/validation,step\n0,4.0,,1\n1,3.0,,2\n1,,3.5,2\n"
    )
    (tmp_path / "metrics.csv").write_text("epoch,loss/train,loss/validation,step\n1,2.5,,2\n2,2.0,,3\n")
    found = read_curves(tmp_path)
    assert {epoch: row["loss/train"] for epoch, row in found.items()} == {0: 4.0, 1: 2.5, 2: 2.0}
    assert found[1]["loss/validation"] == 3.5


def test_the_picture_is_the_same_bytes_twice_and_moves_with_the_curves(tmp_path):
    curves = tmp_path / "metrics.csv"
    curves.write_text("epoch,loss/train,step\n0,4.0,1\n1,3.0,2\n")
    assert draw_curves(tmp_path, tmp_path / "a.png")
    assert draw_curves(tmp_path, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    curves.write_text("epoch,loss/train,step\n0,4.0,1\n1,1.0,2\n")
    assert draw_curves(tmp_path, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_run_that_logged_elsewhere_has_no_picture(tmp_path):
    assert not draw_curves(tmp_path, tmp_path / "a.png")
    (tmp_path / "metrics.csv").write_text("epoch,accuracy/train\n0,1.0\n")
    assert not draw_curves(tmp_path, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
