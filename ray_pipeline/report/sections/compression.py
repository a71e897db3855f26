"""Shorter prompts: what they cost a model, and what training a model to make them came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, dollars, figure, plain, share
from ray_pipeline.report.drawing import Frame, curve, error_bar, plot
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: Stages, named as in the ledger.
TRAINING, EVALUATION = "train-compressor", "evaluate-compressions"
#: What the original experiment published of its training.
_SEED_EPOCHS = (
    ("before", None, 0.6408, 0.4432, 0.5992, 0.5991, 0.4979, 0.84, 0.0),
    ("epoch 1", 2.268063, 0.787342, 0.600898, 0.745362, 0.745457, 0.872906, 1.0, 0.018321),
    ("epoch 2", 2.186183, 0.7959, 0.616433, 0.756211, 0.756367, 0.867175, 1.0, 0.010179),
    ("epoch 3", 2.167105, 0.801126, 0.623248, 0.762223, 0.762250, 0.862491, 1.0, 0.008299),
)
_EPOCH = ("validation_loss", "rouge1", "rouge2", "rougeL", "rougeLsum", "mean_ratio", "p90_ratio",
          "violations")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A figure, with its interval where it has one."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a table: what it is of, and its figures."""

    name: str
    cells: list[Cell]
    #: Whether it is a system itself, not one that is matched to another.
    is_own: bool = True


@dataclass(frozen=True)
class Key:
    """What a colour of a chart stands for."""

    kind: str
    name: str


@dataclass(frozen=True)
class Compression:
    """The section."""

    #: Evaluations of the training, and those of the original experiment.
    epochs: list[Line]
    trained: str
    best: str
    #: Verdicts on the systems, the bad ones first.
    sentences: list[str]
    systems: list[Line]
    chart: Markup | None
    keys: list[Key]
    measured: str
    break_even: list[str]


def read(reader: ReportReader) -> Compression | None:
    """Read what the stages measured; None where none was trained or evaluated."""
    training, evaluation = reader.made_by(TRAINING), reader.made_by(EVALUATION)
    if training is None and evaluation is None:
        return None
    evaluation = evaluation or {}
    chart, keys = _chart(_systems(evaluation))
    return Compression(
        epochs=_epochs(training or {}),
        trained=_trained(training or {}),
        best=_best(training or {}),
        sentences=_sentences(evaluation),
        systems=[_system(one) for one in _systems(evaluation)],
        chart=chart,
        keys=keys,
        measured=_measured(evaluation),
        break_even=_break_even(evaluation.get("break_even")),
    )


def _systems(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = evaluation.get("systems")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _epochs(training: Mapping[str, Any]) -> list[Line]:
    evaluations = training.get("evaluations")
    if not isinstance(evaluations, list) or not evaluations:
        return []
    lines = []
    for one in evaluations:
        step = one.get("step")
        is_kept = step == training.get("best_step")
        name = "before training" if step == 0 else f"step {count(step)}" + ", kept" * is_kept
        cells = [_ratio(one.get(key)) for key in _EPOCH[:-1]]
        cells += [_share(one.get("violations")), _share(one.get("cut"))]
        lines.append(Line(name, [Cell(text) for text in cells]))
    seed = [
        Line(
            f"original experiment: {name}",
            [Cell(_ratio(value)) for value in values[:-1]] + [Cell(_share(values[-1])), Cell(NONE)],
            False,
        )
        for name, *values in _SEED_EPOCHS
    ]
    return lines + seed


def _trained(training: Mapping[str, Any]) -> str:
    if not training:
        return ""
    forms = {
        "seq2seq": "an encoder-decoder that writes the shorter prompt",
        "causal": "a causal language model that writes the shorter prompt",
        "keep_or_drop": "an encoder that says of each word whether it stays",
    }
    form = forms.get(str(training.get("form")), str(training.get("form")))
    return plain(
        f"{training.get('base')}, {form}, on {_count(training.get('rows'))} prompts; at most "
        f"{_count(training.get('max_new_tokens'))} tokens are written, as in the longest label"
    )


def _best(training: Mapping[str, Any]) -> str:
    """Whether training gained anything on the validation loss."""
    evaluations = training.get("evaluations")
    if not isinstance(evaluations, list):
        return ""
    losses = {one.get("step"): finite(one.get("validation_loss")) for one in evaluations}
    before, after = losses.get(0), losses.get(training.get("best_step"))
    if before is None or after is None:
        return ""
    verdict = "lower than" if after < before else "no lower than"
    return (
        f"The validation loss of the weights that were kept, {figure(after)}, is {verdict} that "
        f"before training, {figure(before)}."
    )


def _system(one: Mapping[str, Any]) -> Line:
    name, matched = plain(str(one.get("name"))), plain(str(one.get("matched") or ""))
    title = f"{name}, at the tokens of {matched}" if matched else name
    if matched.startswith("rate"):
        title = f"{name}, at {matched}"
    if (draws := one.get("draws")) and draws > 1:
        title += f" ({draws} draws)"
    overlap = one.get("rouge") or {}
    reference = one.get("rouge_of_compression") or {}
    rows = one.get("rows") or 0
    cells = [
        Cell(_ratio(one.get("total_ratio"))),
        Cell(_ratio(one.get("mean_ratio"))),
        Cell(_ratio(one.get("p90_ratio"))),
        Cell(_share(one["violations"] / rows) if rows and "violations" in one else NONE),
        _interval(one.get("added_nats")),
        _interval(one.get("agreement")),
        _interval(one.get("similarity")),
        Cell(_ratio(overlap.get("rougeL"))),
        Cell(_ratio(reference.get("rougeL"))),
    ]
    return Line(title, cells, not matched)


def _interval(found: Any) -> Cell:
    if not isinstance(found, dict) or (mean := finite(found.get("mean"))) is None:
        return Cell(NONE)
    low, high = finite(found.get("low")), finite(found.get("high"))
    ends = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return Cell(f"{mean:.3f}", ends)


def _sentences(evaluation: Mapping[str, Any]) -> list[str]:
    """What the comparisons say: what beats no baseline comes first."""
    found = evaluation.get("comparisons")
    if not isinstance(found, list):
        return []
    names: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        names.setdefault(plain(str(one.get("system"))), []).append(one)
    sentences = []
    for system, comparisons in names.items():
        beaten = [plain(str(one["than"])) for one in comparisons if _beats(one)]
        others = [plain(str(one["than"])) for one in comparisons if not _beats(one)]
        text = f"At the same tokens, the {system} prompts cost a model "
        if not beaten:
            text += f"no less than any baseline: {', '.join(others)}"
        else:
            text += f"less than {', '.join(beaten)}"
            text += f"; not less than {', '.join(others)}" if others else ""
        sentences.append((len(beaten), text + "."))
    ordered = [text for _, text in sorted(sentences, key=lambda pair: pair[0])]
    roles = [str(evaluation.get(name)) for name in ("compressor", "chooser", "judge")]
    judge = plain(roles[2])
    same = [name for name, model in zip(("writes the compressions", "finds words surprising"),
                                        roles, strict=False) if model == roles[2]]  # fmt: skip
    if same:
        ordered.append(
            f"The model that judges here, {judge}, is also the one that {' and '.join(same)}: a "
            "text that suits it is not sure to suit another model."
        )
    return ordered


def _beats(one: Mapping[str, Any]) -> bool:
    lead, p = one.get("difference"), finite(one.get("p_holm"))
    mean = finite(lead.get("mean")) if isinstance(lead, dict) else None
    return mean is not None and mean < 0 and p is not None and p < 0.05


def _chart(systems: Sequence[Mapping[str, Any]]) -> tuple[Markup | None, list[Key]]:
    """Added nats over the ratio: a line for each way at its rates and matched lengths."""
    points: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
    for one in systems:
        added = one.get("added_nats")
        ratio = finite(one.get("total_ratio"))
        mean = finite(added.get("mean")) if isinstance(added, dict) else None
        if ratio is None or mean is None or one.get("name") in ("empty prompt", _OTHER):
            continue
        assert isinstance(added, dict)
        ends = finite(added.get("low")), finite(added.get("high"))
        points.setdefault(plain(str(one.get("name"))), []).append((ratio, mean, *ends))
    original = points.pop("original", [])
    if not points:
        return None, []
    every = [(x, y) for found in (*points.values(), original) for x, y, _, _ in found]
    frame = Frame.around("", every, from_zero=True, width=560.0, height=240.0)
    shapes, keys = [], []
    for number, (name, found) in enumerate(points.items()):
        kind = f"s{number % _COLOURS}"
        line = sorted((x, y) for x, y, _, _ in found)
        shapes.append(curve(frame, kind, line, "marked"))
        shapes += [
            error_bar(frame, kind, (x, max(low, frame.y.low), min(high, frame.y.high)))
            for x, _, low, high in found
            if len(found) == 1 and low is not None and high is not None
        ]
        keys.append(Key(kind, name))
    ticks = [(place / 10, f"{place / 10:.1f}") for place in range(0, 11, 2)]
    return plot(frame, *shapes, x_ticks=ticks), keys


_OTHER = "another row's prompt"
#: Colours of lines that the style has.
_COLOURS = 6


def _measured(evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return ""
    left_out = evaluation.get("left_out")
    reasons = [f"{count(number)} {name}" for name, number in left_out.items() if number] \
        if isinstance(left_out, dict) else []  # fmt: skip
    words = (
        f"{_count(evaluation.get('rows'))} test prompts of {_count(evaluation.get('families'))} "
        f"families; left out: {', '.join(reasons) or 'none'}. Judge: {evaluation.get('judge')}."
    )
    ceiling = _interval(evaluation.get("ceiling"))
    if ceiling.text != NONE:
        words += (
            f" Answers to {_count(evaluation.get('answers_compared'))} prompts, of at most "
            f"{_count(evaluation.get('agreement_tokens'))} tokens; the same prompt asked twice "
            f"agrees to {ceiling.text}" + (f" ({ceiling.interval})" if ceiling.interval else "")
            + "."
        )  # fmt: skip
    return plain(words)


def _break_even(found: Any) -> list[str]:
    if not isinstance(found, dict) or finite(found.get("saved_tokens")) is None:
        return []
    sentences = [
        f"A thousand compressed prompts save {count(round(found['saved_tokens']))} tokens each "
        f"time they are used. Compressing them took {count(round(found['compressing_tokens']))}: "
        f"{count(round(found['compressing_prompt_tokens']))} of prompts, "
        f"{count(round(found['compressing_completion_tokens']))} of answers."
    ]
    if "uses" not in found:
        return [*sentences, "No prices are configured, so there are no dollars."]
    sentences.append(
        f"That is {dollars(found['saved_dollars'])} a use against "
        f"{dollars(found['compressing_dollars'])}: it pays from {_uses(found['uses'])}. Where the "
        "provider caches both the instructions of the compressing requests and the prompts "
        f"themselves: {dollars(found['saved_dollars_cached'])} against "
        f"{dollars(found['compressing_dollars_cached'])}, from {_uses(found['uses_cached'])}."
    )
    return sentences


def _uses(number: Any) -> str:
    return "no number of uses" if number is None else f"{count(number)} uses"


def _ratio(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else f"{number:.4f}"


def _count(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else count(number)


def _share(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else share(number, 1)


SECTION = Section("compression-cost", "What shorter prompts cost", "compression.html.j2", read)
