"""One table of what evaluators found about one or several encoders, beside the paper's figures.

A row is an evaluation of a data set by a subject; several seeds of one evaluation are one row, mean and standard
deviation. By the paper's rule a figure is bold when it is not significantly worse (permutation test, p > 0.05) than
the best one of its column, here of its evaluation and data set.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.machine.printing import BOLD, visible
from simclr_plus.results.paper_figures import paper_figure
from simclr_plus.runs.folder import Run, find_run
from simclr_plus.runs.result_folders import NOTE, find_results, folder_of, run_of
from simclr_plus.runs.result_names import described, in_order

METRICS = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class", "map11": "11-point mAP"}
COLUMNS = ("evaluation", "data", "encoder", "subject", "metric", "value", "spread", "paper")
FORMATS = {".md": "markdown", ".csv": "csv", ".json": "json", ".html": "html", ".htm": "html"}
BARS = {"encoder": "#1f6feb", "encoder, z": "#79b0f5"}  # other subjects, the baselines, are gray
# choices of evaluators that take no labelled set, for the report to state
_CHOICES = {
    "linear_fast": "linear_fast: cached features of central crops; not the paper's protocol",
    "linear": "linear: batch 256 unless asked otherwise, the rate scaled with it (the paper: 4096)",
    "knn": "knn: not in the paper",
}


@dataclass(frozen=True)
class Row:
    """A figure in [0, 1]. low, high: 95 % interval over test images, or with n seeds one standard deviation around.

    best: not significantly worse than the best of the same evaluation and data; None where no predictions tell.
    key, digest, images: of the evaluation, the encoder and the test images, empty in results of earlier versions.
    """

    evaluation: str
    data: str
    encoder: str
    subject: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    paper: str
    best: bool | None = None
    predictions: str = ""
    seed: str = ""
    key: str = ""
    digest: str = ""
    images: str = ""


@dataclass(frozen=True)
class Report:
    """The rows, and every choice behind them that no source fixes."""

    rows: tuple[Row, ...]
    choices: tuple[str, ...]
    warnings: tuple[str, ...]
    runs: tuple[Run, ...]


def results_folder(name: str, runs: Path) -> Run:
    """A run, a folder that only holds the results of a file, by name or path, or the folder of an encoder file."""
    file = Path(name)
    if file.is_file():
        from simclr_plus.encoders.digest import encoder_digest
        from simclr_plus.weights.encoder_files import load_encoder

        return run_of(file) or folder_of(name, file, encoder_digest(load_encoder(file)), runs)
    for path in (file, runs / name):
        if (path / "results").is_dir():
            return Run(path)
    try:
        return find_run(name, runs)
    except NotFoundError:
        if not any(runs.glob(f"*/{NOTE}")):
            raise
        return find_results(name, runs)


def make_report(runs: Sequence[Run]) -> Report:
    """Everything in the results folders of the runs; raises NotFoundError where there is nothing."""
    rows: list[Row] = []
    choices: list[str] = []
    warnings: list[str] = []
    for run in runs:
        for file in sorted(run.results.glob("*.json"), key=lambda file: in_order(file.name)):
            try:
                read = _read(run, file)
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # one bad file is one row less
                warnings.append(
                    f"{file} is left out: it is no result that can be read ({type(error).__name__}: {error})"
                )
                continue
            for into, found in zip((rows, choices, warnings), read, strict=True):
                into += found  # type: ignore[operator]
    if not rows:
        named = ", ".join(str(run.path) for run in runs)
        bad = "".join(f". {text}" for text in warnings)
        raise NotFoundError(
            f"no results in {named}: evaluate first, e.g. simclr-plus evaluate knn {shlex.quote(runs[0].name)}{bad}"
        )
    marked = _with_best_marked(_groups_together(_told_apart(_seeds_together(_once(rows)))))
    if any(row.low is not None for row in marked):
        choices.append("spread: 95 % interval over the test images, or of n seeds one standard deviation")
    if any(row.best for row in marked):
        choices.append("bold: not significantly worse than the best (permutation test on paired predictions, p > 0.05)")
    return Report(tuple(marked), tuple(dict.fromkeys(choices)), tuple(dict.fromkeys(warnings)), tuple(runs))


def _read(run: Run, file: Path) -> tuple[list[Row], list[str], list[str]]:
    """Rows, choices and warnings of a result; nothing of a file that is something else."""
    result = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or "results" not in result or "evaluator" not in result:
        return [], [], []
    choices = [*result.get("choices", [])]
    choices += [_CHOICES[result["evaluator"]]] if result["evaluator"] in _CHOICES else []
    warnings = [text for scores in result["results"].values() for text in scores.get("warnings", [])]
    return list(_rows_of(run, result)), choices, warnings


def _rows_of(run: Run, result: dict[str, Any]) -> Iterable[Row]:
    imagenet = "imagenet" in result["data"].lower() or result.get("train_images", 0) >= 1_200_000
    width = re.search(r"ResNet-50 \(([\d.]+)x\)", result.get("encoder", ""))
    step = f" {result['step']:,}" if isinstance(result.get("step"), int) else ""
    kind, changed = re.sub(r"_seed\d+$", "", result["evaluator"]), dict(result.get("changed", {}))
    like_paper = not changed.keys() & {"on", "labels"}  # its linear evaluation is on h and on all labels
    by_name = re.search(r"_seed(\d+)$", result["evaluator"])
    seed = by_name[1] if by_name else str(result.get("settings", {}).get("seed", changed.get("seed", "")))
    predictions = _predictions_of(run, result)
    for told_elsewhere in ("seed", "on"):  # by the number of seeds, by the subject
        changed.pop(told_elsewhere, None)
    evaluation = ", ".join(text for text in (kind, described(changed)) if text)
    for subject, scores in result["results"].items():
        metrics = [scores["metric"]] if scores.get("metric") else ["top1"]
        metrics += ["top5"] if metrics == ["top1"] and "top5" in scores else []
        for metric in metrics:
            low, high = scores.get(f"{metric}_interval_95") or (None, None)
            yield Row(
                evaluation,
                result["data"],
                f"{run.name}{step}",
                subject,
                metric,
                float(scores[metric]),
                low,
                high,
                1,
                paper_figure(
                    result["evaluator"],
                    result["data"],
                    metric,
                    width=float(width[1]) if width else 0,
                    imagenet=imagenet,
                )
                if like_paper
                else "",
                predictions=predictions if metric != "top5" else "",
                seed=seed,
                key=str(result.get("key", "")),
                digest=str(result.get("digest", "")),
                images=str(result.get("test_digest", "")),
            )


def _predictions_of(run: Run, result: dict[str, Any]) -> str:
    """The file of predictions that belongs to this result; empty where it is gone, or is another evaluation's."""
    from simclr_plus.results.predictions import predictions_header

    file = run.results / str(result.get("predictions"))
    if not result.get("predictions") or not file.is_file():
        return ""
    header = predictions_header(file)
    return str(file) if header and header.get("key", "") == result.get("key", header.get("key", "")) else ""


def _once(rows: Sequence[Row]) -> list[Row]:
    """An evaluation of one encoder under two names, as a checkpoint and as the encoder file of its run, is one."""
    by_evaluation: dict[tuple[str, ...], Row] = {}
    for row in rows:
        unique = (str(len(by_evaluation)),) if not row.key else (row.key, row.subject, row.metric, row.encoder)
        by_evaluation.setdefault(unique, row)
    return list(by_evaluation.values())


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows that read alike and are of other weights or other test images say so."""

    def told(row: Row) -> tuple[str, ...]:
        return row.evaluation, row.data, row.encoder, row.subject, row.metric

    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        alike.setdefault(told(row), []).append(row)
    distinct = []
    for row in rows:
        group = alike[told(row)]
        if row.digest and len({other.digest for other in group}) > 1:
            row = replace(row, encoder=f"{row.encoder} ({row.digest[:8]})")
        if row.images and len({other.images for other in group}) > 1:
            row = replace(row, data=f"{row.data} (images {row.images[:8]})")
        distinct.append(row)
    return distinct


def _seeds_together(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ by their seed alone become one; predictions of several trainings are no longer paired."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.evaluation, row.data, row.encoder, row.subject, row.metric, row.digest)
        groups.setdefault(key, []).append(row)
    return [row for group in groups.values() for row in _merged(group)]


def _merged(group: Sequence[Row]) -> list[Row]:
    """One row of several seeds; where a seed occurs twice, something else differs too, and the rows stay apart."""
    values, seeds = [row.value for row in group], {row.seed for row in group}
    if len(group) > 1 and len(seeds) < len(group) and len({row.images for row in group}) > 1:
        return [row for images in dict.fromkeys(r.images for r in group) for row in _merged(_of_images(group, images))]
    if len(group) == 1 or (len(seeds) < len(group) and any(row.key for row in group)):
        return list(group)
    middle, spread = mean(values), stdev(values)
    low, high = middle - spread, middle + spread
    return [replace(group[0], value=middle, low=low, high=high, n=len(values), predictions="")]


def _of_images(group: Sequence[Row], images: str) -> list[Row]:
    return [row for row in group if row.images == images]


def _groups_together(rows: Sequence[Row]) -> list[Row]:
    """Rows of one evaluation and data set side by side, in the order in which these first occur."""
    groups = {(row.evaluation, row.data): i for i, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: groups[row.evaluation, row.data])


def _with_best_marked(rows: Sequence[Row]) -> list[Row]:
    from simclr_plus.results.predictions import compare_predictions

    marked = []
    for row in rows:
        rivals = [r for r in rows if (r.evaluation, r.data, r.metric) == (row.evaluation, row.data, row.metric)]
        best = max(rivals, key=lambda r: r.value)
        if len(rivals) < 2 or not row.predictions or not best.predictions:
            marked.append(row)
            continue
        try:
            comparison = compare_predictions(Path(best.predictions), Path(row.predictions), best.subject, row.subject)
        except (RecipeError, NotFoundError):  # of other test images, or without this subject
            marked.append(row)
            continue
        marked.append(replace(row, best=row is best or not comparison.significant))
    return marked


def cells(row: Row) -> list[str]:
    """The row as text, in the order of COLUMNS; bold cells between two stars."""
    value = f"{100 * row.value:.1f}"
    spread = ""
    if row.low is not None and row.high is not None:
        spread = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        if row.n > 1:
            spread = f"± {50 * (row.high - row.low):.1f} (n = {row.n})"
    figure = f"**{value}**" if row.best else value
    return [
        row.evaluation.replace("_", " "),
        row.data,
        row.encoder,
        row.subject,
        METRICS.get(row.metric, row.metric),
        figure,
        spread,
        row.paper,
    ]


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Column names and cells; columns in which no row has anything are left out."""
    rows = [cells(row) for row in report.rows]
    columns = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    return [COLUMNS[i] for i in columns], [[row[i] for i in columns] for row in rows]


def as_text(report: Report, kind: str) -> str:
    """The report as "markdown", "csv", "json" or "html"."""
    if kind not in _WRITERS:
        raise RecipeError(f"--format {kind!r} is unknown; use table, {', '.join(_WRITERS)}")
    return _WRITERS[kind](report)


def _markdown(report: Report) -> str:
    columns, rows = table(report)
    lines = [
        "| " + " | ".join(text if text == "---" else _in_markdown(text) for text in row) + " |"
        for row in (columns, ["---"] * len(columns), *rows)
    ]
    notes = [f"- {_in_markdown(text)}" for text in (*report.warnings, *report.choices)]
    return "\n".join([*lines, "", "What no source fixes was chosen so:" if notes else "", "", *notes]) + "\n"


def _in_markdown(text: str) -> str:
    """Text that is none of its format's signs; a figure between two stars stays bold."""
    bold = BOLD.fullmatch(text)
    plain = visible(bold[1] if bold else text).replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\|*`\[\]])", r"\\\1", plain)
    return f"**{escaped}**" if bold else escaped


def _csv(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("evaluation", "data", "encoder", "subject", "metric", "value", "low", "high", "n", "paper", "best")
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in report.rows)
    return text.getvalue()


def _json(report: Report) -> str:
    return json.dumps(
        {
            "schema": 1,
            "rows": [asdict(row) for row in report.rows],
            "choices": report.choices,
            "warnings": report.warnings,
        },
        indent=2,
    )


def _html(report: Report) -> str:
    """One file: the table, bars with their intervals, learning curves of the runs; pictures are inside."""

    def cell(text: str) -> str:
        bold = text.startswith("**") and text.endswith("**")
        return f"<td><b>{html.escape(text[2:-2])}</b></td>" if bold else f"<td>{html.escape(text)}</td>"

    columns, rows = table(report)
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in (*report.warnings, *report.choices))
    pictures = "".join(
        f'<p><img src="data:image/png;base64,{data}" alt="{html.escape(alt)}"></p>' for alt, data in _pictures(report)
    )
    style = (
        "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}img{max-width:100%}"
        "td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}"
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>SimCLR+ evaluation</title>"
        f"<style>{style}</style></head><body><h1>Evaluation</h1><table><tr>{head}</tr>\n{body}</table>{pictures}"
        f"<h2>Choices</h2><ul>{notes}</ul></body></html>\n"
    )


def _pictures(report: Report) -> Iterable[tuple[str, str]]:
    """What each shows, and the PNG: bars of all evaluations, learning curves of each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold dollars
        figure = bars_figure([row for row in report.rows if row.metric != "top5"])
    yield "bars of the table's figures without top-5", _encoded(figure)
    pyplot.close(figure)
    for run in report.runs:
        if run.metrics_file.is_file() and run.metrics():
            from simclr_plus.results.curves import curves_figure

            figure = curves_figure(run)
            yield f"learning curves of {run.name}", _encoded(figure)
            pyplot.close(figure)


def bars_figure(rows: Sequence[Row]) -> Any:
    """A panel an evaluation, a bar a row with its figure and interval; labels say what differs among all rows."""
    from matplotlib import pyplot

    groups = {
        name: [row for row in rows if row.evaluation == name] for name in dict.fromkeys(r.evaluation for r in rows)
    }
    label_keys = [key for key in ("data", "encoder") if len({getattr(row, key) for row in rows}) > 1] + ["subject"]
    heights = [len(group) + 1.2 for group in groups.values()]  # in bars: a title takes one
    figure, panels = pyplot.subplots(
        len(groups),
        1,
        figsize=(9, 0.5 + 0.32 * sum(heights)),
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        constrained_layout=True,
    )
    for (name, group), axes in zip(groups.items(), panels[:, 0], strict=True):
        for y, row in enumerate(group):
            value, ends = 100 * row.value, 100 * row.value
            axes.barh(y, value, color=BARS.get(row.subject, "#8b949e"))
            if row.low is not None and row.high is not None:
                axes.plot([100 * row.low, 100 * row.high], [y, y], color="black", linewidth=1.5)
                ends = max(ends, 100 * row.high)
            axes.text(ends + 1, y, f"{value:.1f}", va="center", fontweight="bold" if row.best else "normal")
        axes.set_yticks(range(len(group)), [" · ".join(getattr(row, key) for key in label_keys) for row in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
        metrics = ", ".join(dict.fromkeys(METRICS.get(row.metric, row.metric) for row in group))
        axes.set_title(f"{name.replace('_', ' ')}: {metrics}", loc="left", fontsize=10)
        axes.set(xlim=(0, 109), xticks=range(0, 101, 20))
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("%")
    return figure


def _encoded(figure: Any) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return base64.b64encode(data.getvalue()).decode()


_WRITERS = {"markdown": _markdown, "csv": _csv, "json": _json, "html": _html}
