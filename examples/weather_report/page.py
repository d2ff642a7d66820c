"""The report's page: one self-contained HTML file with its plot drawn inside."""

import io
import re
from datetime import date
from html import escape
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from weather import features, target_of

mpl.use("Agg")
import matplotlib.pyplot as plt

INK, PALE, ACCENT = "#22303c", "#9fb3c1", "#c8553d"

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 18px/1.6 Charter, "Bitstream Charter", Georgia, serif; color: #22303c; background: #fbfaf7;
         max-width: 46rem; margin: 4rem auto; padding: 0 1.5rem; }}
  h1 {{ font-size: 2.1rem; line-height: 1.2; font-weight: 600; margin: 0; letter-spacing: -.01em; }}
  .dates {{ color: #6b7c88; margin: .3rem 0 2rem; font-variant-numeric: oldstyle-nums; }}
  svg {{ width: 100%; height: auto; }}
  table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
  td, th {{ text-align: right; padding: .35rem 0; border-bottom: 1px solid #e2ded4; font-weight: 400; }}
  td:first-child, th:first-child {{ text-align: left; }}
  th {{ color: #6b7c88; font-size: .85rem; }}
  footer {{ color: #6b7c88; font-size: .85rem; margin-top: 2.5rem; }}
</style>
<h1>{title}</h1>
<p class="dates">{dates}</p>
{plot}
<p>{summary}</p>
<table><tr><th>Year</th><th>Mean</th><th>Lowest</th><th>Highest</th></tr>{rows}</table>
<h2>Record after record</h2>
<p>{records}</p>
<footer>Written by a Torpor run that left memory while it waited for the morning and for a person's approval.</footer>
</html>
"""


def draw(weather: pd.DataFrame, model: RandomForestRegressor, records: list[tuple[date, float]]) -> str:
    """The plot as SVG: every day, what the model expected, and the records."""
    target = target_of(weather)
    days = pd.DatetimeIndex(weather.index)
    expected = pd.Series(model.predict(features(weather)), index=days).rolling(21, center=True, min_periods=1).mean()
    figure, axes = plt.subplots(figsize=(9, 3.6))
    axes.plot(days, weather[target], ".", color=PALE, markersize=2.5, label="each day")
    axes.plot(days, expected, color=INK, linewidth=1.2, label="expected, three weeks' mean")
    axes.plot(
        pd.DatetimeIndex([day for day, _ in records]),
        [value for _, value in records],
        "o",
        color=ACCENT,
        markersize=4,
        label="records",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(target.replace("_", " "))
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", bbox_inches="tight", transparent=True)
    plt.close(figure)
    return re.sub(r"^.*?(?=<svg)", "", drawn.getvalue(), flags=re.DOTALL)


def render(weather: pd.DataFrame, model: RandomForestRegressor, records: list[tuple[date, float]], month: str) -> str:
    """The page as HTML."""
    target = target_of(weather)
    days = pd.DatetimeIndex(weather.index)
    rows = "".join(
        f"<tr><td>{year}</td><td>{values.mean():.1f}</td><td>{values.min():.1f}</td><td>{values.max():.1f}</td></tr>"
        for year, values in weather[target].groupby(days.year)
    )
    return PAGE.format(
        title=escape(f"{len(weather):,} days of {target.replace('_', ' ')}"),
        dates=f"{days[0]:%d %B %Y} to {days[-1]:%d %B %Y}",
        plot=draw(weather, model, records),
        summary=escape(f"The month of the highest value, {month}."),
        rows=rows,
        records=escape(", ".join(f"{value:g} on {day:%d %b %Y}" for day, value in records) + "."),
    )


def write_page(
    directory: Path, weather: pd.DataFrame, model: RandomForestRegressor, records: list[tuple[date, float]], month: str
) -> Path:
    """Write the page and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "weather-report.html"
    path.write_text(render(weather, model, records, month), encoding="utf-8")
    return path
