from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simclr_plus.datasets import Images
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.evaluators.significance import compare, right_answers, weights_of
from simclr_plus.machine.printing import print_table
from simclr_plus.results.paper_figures import paper_figure
from simclr_plus.results.predictions import write_predictions
from simclr_plus.results.report import as_text, bars_figure, cells, make_report, results_folder, table
from simclr_plus.runs.folder import Run

N = 2000
LABELS = np.arange(N) % 10
TEST = Images("cars", np.zeros((N, 8, 8, 3), np.uint8), (), LABELS)


def evaluated(run: Run, name: str, right: dict[str, float], *, title: str = "ResNet-50 (1x), imagenet stem") -> None:
    """A result as evaluators write it: so many of the first predictions of each subject are right."""
    said = {who: np.where(np.arange(N) < round(N * share), LABELS, (LABELS + 1) % 10) for who, share in right.items()}
    file = f"predictions/{name}_cars.safetensors"
    write_predictions(run.results / file, TEST, "top1", LABELS, said)
    found = {
        subject: {"top1": share, "metric": "top1", "top1_interval_95": [share - 0.02, share + 0.02]}
        for subject, share in right.items()
    }
    run.write_result(
        f"{name}_cars",
        {
            "evaluator": name,
            "data": "cars",
            "encoder": title,
            "step": 100,
            "train_images": 10,
            "results": found,
            "predictions": file,
            "choices": ["validation: 20% of each class"],
        },
    )


@pytest.fixture
def two(tmp_path: Path) -> list[Run]:
    runs = [Run(tmp_path / "a"), Run(tmp_path / "b")]
    evaluated(runs[0], "transfer", {"encoder": 0.6, "random encoder": 0.3})
    evaluated(runs[1], "transfer", {"encoder": 0.598})
    return runs


def test_bold_is_what_is_not_significantly_worse_than_the_best(two: list[Run]) -> None:
    found = make_report(two)
    best = {(row.encoder.split()[0], row.subject): row.best for row in found.rows}
    a, b = (np.where(np.arange(N) < n, LABELS, (LABELS + 1) % 10) for n in (1200, 1196))
    p = compare(right_answers(LABELS, a), right_answers(LABELS, b), weights_of(LABELS, "top1")).p
    assert p > 0.05
    assert best == {("a", "encoder"): True, ("a", "random encoder"): False, ("b", "encoder"): True}


def test_the_papers_figure_of_the_same_width_stands_beside(two: list[Run], tmp_path: Path) -> None:
    wide = Run(tmp_path / "wide")
    evaluated(wide, "transfer", {"encoder": 0.5}, title="ResNet-50 (4x), imagenet stem")
    rows = make_report([*two, wide]).rows
    assert rows[0].paper == "R50 50.3 (supervised 66.7)" and rows[-1].paper == "R50 4x 60.0 (supervised 68.8)"


def test_paper_figures_are_those_of_its_tables() -> None:
    assert paper_figure("linear", "folder /imagenet", "top1", width=2, imagenet=True) == "R50 2x 74.2"
    assert paper_figure("linear", "fashion_mnist", "top1") == ""
    assert paper_figure("few_labels_paper_1pct", "x", "top5", width=4, imagenet=True) == "R50 4x 85.8"
    assert paper_figure("few_labels_paper_10pct_seed0", "x", "top1", width=1, imagenet=True) == "R50 65.6"
    assert paper_figure("few_labels_simclr_v2_1pct", "x", "top1", width=1, imagenet=True) == "R50 57.9"
    assert paper_figure("fine_tuned", "voc2007", "map11", width=4) == "R50 4x 86.6 (supervised 86.5)"
    assert paper_figure("fine_tuned_random", "flowers102", "mean_per_class") == "R50 92.0"
    assert paper_figure("transfer_mean", "food101", "top1") == "R50 68.4 (supervised 72.3)"


def test_seeds_become_one_row_of_mean_and_deviation(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    for seed, share in enumerate((0.5, 0.6, 0.7)):
        evaluated(run, f"few_labels_paper_1pct_seed{seed}", {"encoder": share})
    (row,) = make_report([run]).rows
    assert row.n == 3 and row.value == pytest.approx(0.6) and row.evaluation == "few_labels_paper_1pct"
    assert row.high is not None and row.high - row.value == pytest.approx(0.1)
    assert cells(row)[-2] == "± 10.0 (n = 3)"


def test_rows_of_other_settings_are_told_apart_and_their_seeds_come_together(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    for seed, share in enumerate((0.5, 0.6)):
        for changed in ({}, {"epochs": 5}):
            found = {"encoder": {"top1": share + len(changed) / 10}}
            result = {"evaluator": f"few_labels_paper_1pct_seed{seed}", "data": "cars", "results": found}
            run.write_result(f"{seed}{len(changed)}", result | {"changed": changed})
            result |= {"evaluator": "transfer", "changed": changed | ({"seed": seed} if seed else {})}
            run.write_result(f"t{seed}{len(changed)}", result)
    assert [(row.evaluation, row.n, round(row.value, 6)) for row in make_report([run]).rows] == [
        ("few_labels_paper_1pct", 2, 0.55),
        ("few_labels_paper_1pct, epochs 5", 2, 0.65),
        ("transfer", 2, 0.55),
        ("transfer, epochs 5", 2, 0.65),
    ]


def test_no_figure_of_the_paper_stands_beside_what_it_did_not_evaluate(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    asked: list[dict[str, object]] = [{}, {"epochs": 30}, {"labels": 500}, {"on": "z"}]
    for i, changed in enumerate(asked):
        found = {f"encoder{', z' if 'on' in changed else ''}": {"top1": 0.5}}
        result = {"evaluator": "linear", "data": "imagenet", "changed": changed, "results": found}
        run.write_result(str(i), result | {"encoder": "ResNet-50 (1x)"})
    assert {(row.evaluation, row.subject): row.paper for row in make_report([run]).rows} == {
        ("linear", "encoder"): "R50 69.3",
        ("linear, epochs 30", "encoder"): "R50 69.3",
        ("linear, labels 500", "encoder"): "",
        ("linear", "encoder, z"): "",
    }


def test_the_table_leaves_out_what_no_row_has_and_groups_stand_together(two: list[Run], tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    for name, kind, subject in (("1", "knn", "encoder"), ("2", "linear_fast", "encoder"), ("3", "knn", "encoder, z")):
        run.write_result(name, {"evaluator": kind, "data": "photos", "results": {subject: {"top1": 0.5}}})
    found = make_report([run])
    columns, rows = table(found)
    assert "spread" in columns and "paper" in columns  # of the transfer that `two` evaluated
    assert [row[:4] for row in rows[:3]] == [
        ["knn", "photos", "a", "encoder"],
        ["knn", "photos", "a", "encoder, z"],
        ["linear fast", "photos", "a", "encoder"],
    ]
    plain = replace(found, rows=found.rows[:3])
    assert table(plain)[0] == ["evaluation", "data", "encoder", "subject", "metric", "value"]
    assert "| spread" not in as_text(plain, "markdown") and "spread" not in as_text(plain, "html").split("</table>")[0]


def test_bars_are_as_long_as_the_figures_of_the_table(two: list[Run]) -> None:
    figure = bars_figure(make_report(two).rows)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([60.0, 30.0, 59.8])
    assert [text.get_text() for text in axes.texts] == ["60.0", "30.0", "59.8"]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "a 100 · encoder",
        "a 100 · random encoder",
        "b 100 · encoder",
    ]
    lines = [line.get_xdata().tolist() for line in axes.lines]
    assert lines[0] == pytest.approx([58.0, 62.0]) and len(lines) == 3


def test_what_a_group_repeats_is_left_blank(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b", "c"], [["x", "1", "1"], ["x", "1", "1"], ["y", "1", "1"]], "a title", grouped=2)
    lines = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [["x", "1", "1"], ["", "", "1"], ["y", "1", "1"]]


def test_all_formats_hold_the_same_figures(two: list[Run]) -> None:
    found = make_report(two)
    markdown, text = as_text(found, "markdown"), as_text(found, "html")
    assert "| **60.0** |" in markdown and "| 30.0 |" in markdown and "validation: 20% of each class" in markdown
    assert "<b>60.0</b>" in text and "data:image/png;base64," in text and "validation: 20% of each class" in text
    rows = list(csv.DictReader(io.StringIO(as_text(found, "csv"))))
    assert [float(row["value"]) for row in rows] == [0.6, 0.3, 0.598]
    listed = json.loads(as_text(found, "json"))
    assert [row["value"] for row in listed["rows"]] == [0.6, 0.3, 0.598] and listed["choices"]
    with pytest.raises(RecipeError, match="--format 'pdf'"):
        as_text(found, "pdf")


def test_results_of_knn_and_linear_stand_in_the_table_too(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "r")
    found = {"encoder": {"top1": 0.8, "top5": 0.9}}
    run.write_result("knn_step", {"evaluator": "knn", "data": "embedded", "step": 5, "results": found})
    assert results_folder("r", tmp_path / "runs").path == run.path
    rows = make_report([run]).rows
    assert [(row.metric, row.value, row.best) for row in rows] == [("top1", 0.8, None), ("top5", 0.9, None)]
    with pytest.raises(NotFoundError, match="evaluate first"):
        make_report([Run(tmp_path / "nothing")])


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    from simclr_plus.results.predictions import compare_predictions

    for name, images in (("a", TEST), ("b", TEST.subset(np.arange(N)[::-1].copy()))):
        assert images.labels is not None
        write_predictions(tmp_path / name, images, "top1", images.labels, {"encoder": images.labels})
    with pytest.raises(RecipeError, match="other test images"):
        compare_predictions(tmp_path / "a", tmp_path / "b")
    with pytest.raises(NotFoundError, match="no predictions of 'me'"):
        compare_predictions(tmp_path / "a", tmp_path / "a", "me")


def test_one_bad_file_leaves_the_other_rows_and_is_named(two: list[Run]) -> None:
    whole = [(row.encoder, row.value, row.best) for row in make_report(two).rows]
    bad = {"cut.json": '{"evaluator": "knn", "res', "none.json": '{"evaluator": "knn", "results": null}'}
    bad |= {"bytes.json": "\udcff", "text.json": '{"evaluator": 5, "data": [], "results": {"encoder": "0.5"}}'}
    bad |= {"value.json": '{"evaluator": "knn", "data": "x", "results": {"encoder": {"top1": null}}}'}
    for name, text in bad.items():
        (two[0].results / name).write_bytes(text.encode(errors="surrogateescape"))
    found = make_report(two)
    assert [(row.encoder, row.value, row.best) for row in found.rows] == whole
    assert all(any(name in text for text in found.warnings) for name in bad)
    with pytest.raises(NotFoundError, match=r"cut\.json is left out"):
        (two[0].results / "transfer_cars.json").unlink()
        make_report(two[:1])


def test_settings_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    for k in (5, 20, 100):
        result = {"evaluator": "knn", "data": "x", "changed": {"k": k}, "results": {"encoder": {"top1": 0.5}}}
        run.write_result(f"knn_step_k-{k}", result)
    assert [row.evaluation for row in make_report([run]).rows] == ["knn, k 5", "knn, k 20", "knn, k 100"]


def test_predictions_of_another_evaluation_are_not_paired(two: list[Run]) -> None:
    """As where a file of predictions was written over under the result's name."""
    assert any(row.best for row in make_report(two).rows)
    for run in two:
        file = run.results / "transfer_cars.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"key": "this evaluation"}))
        write_predictions(
            run.results / "predictions" / "transfer_cars.safetensors",
            TEST,
            "top1",
            LABELS,
            {"encoder": LABELS},
            about={"key": "another"},
        )
    assert [row.best for row in make_report(two).rows] == [None, None, None]
