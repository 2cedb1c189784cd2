"""What evaluation.json says, as a page shows it. Rows of another kind are passed over."""

from collections.abc import Iterable, Mapping
from typing import Any

from fluxflow.report import figures
from fluxflow.report.sections import Plot, are_numbers, plot, short


def plots(evaluation: Mapping[str, Any]) -> list[Plot]:
    """The curves of evaluation.json; those that are none are left out."""
    found = filter(_is_curve, _objects(evaluation.get("curves")))
    return [plot(figures.lines(curve), str(curve.get("title", ""))) for curve in found]


def about(evaluation: Mapping[str, Any]) -> str:
    """The command of evaluation.json, its data and its model in one line."""
    data, model = evaluation.get("data"), evaluation.get("model")
    pieces = [str(evaluation.get("command") or "")]
    if isinstance(data, Mapping):
        pieces.append(f"On {data.get('name', '?')}, {data.get('samples', '?')} samples.")
    if isinstance(model, Mapping) and model.get("step") is not None:
        pieces.append(f"The model is that of step {model['step']}.")
    return " ".join(piece for piece in pieces if piece)


def measures(evaluation: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Group → the measures of evaluation.json as text: title, value with its unit, interval, number, what is better."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in _objects(evaluation.get("measures")):
        if not are_numbers([row.get("value")]):
            continue
        bounds = [row.get("low"), row.get("high")]
        text = {
            "title": str(row.get("title") or row.get("name", "")),
            "value": f"{short(row['value'])} {row.get('unit') or ''}".strip(),
            "interval": f"{short(bounds[0])} to {short(bounds[1])}" if are_numbers(bounds) else "",
            "count": f"{row['n']:,}" if isinstance(row.get("n"), int) else "",
            "better": {"higher": "↑", "lower": "↓"}.get(str(row.get("better")), ""),
        }
        groups.setdefault(str(row.get("group", "")), []).append(text)
    return groups


def _objects(rows: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _is_curve(curve: Mapping[str, Any]) -> bool:
    series = curve.get("series")
    lists: Iterable[Any] = series.values() if isinstance(series, Mapping) else ()
    return isinstance(series, Mapping) and are_numbers(curve.get("x")) and all(isinstance(one, list) for one in lists)
