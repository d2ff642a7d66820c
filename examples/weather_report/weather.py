"""Reading and modelling weather: plain functions that know nothing of Torpor."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from vega_datasets import data


def read_weather(csv: str | None = None) -> pd.DataFrame:
    """Daily measurements by date: Seattle 2012-2015, or any CSV with a date column and numbers beside it.

    Raises:
        ValueError: no column holds dates, or none holds numbers.
    """
    path = Path(csv) if csv else Path(str(data.seattle_weather.filepath))
    table = pd.read_csv(path)
    for name in table.columns:
        if table[name].dtype.kind in "ifb":
            continue
        dates = pd.to_datetime(table[name], errors="coerce")
        if dates.notna().mean() > 0.9:
            table = table.assign(**{name: dates}).dropna(subset=[name]).set_index(name).sort_index()
            numbers = table.select_dtypes("number").dropna(axis="columns", how="all").interpolate()
            if numbers.shape[1] and len(numbers) >= 60:
                return numbers
            raise ValueError(f"{path.name} needs a column of numbers and 60 dated rows at least")
    raise ValueError(f"{path.name} has no column of dates")


def target_of(weather: pd.DataFrame) -> str:
    """The column that the report is about."""
    return "temp_max" if "temp_max" in weather.columns else str(weather.columns[0])


def features(weather: pd.DataFrame) -> np.ndarray:
    """What a day is judged by: the season, and yesterday."""
    day = np.asarray(pd.DatetimeIndex(weather.index).day_of_year, dtype=float)
    yesterday = weather[target_of(weather)].shift(1).bfill().to_numpy(dtype=float)
    return np.column_stack([np.sin(day * 2 * np.pi / 365.25), np.cos(day * 2 * np.pi / 365.25), yesterday])


def fit(weather: pd.DataFrame) -> RandomForestRegressor:
    """A model that guesses a day's value from the season and the day before."""
    model = RandomForestRegressor(n_estimators=40, min_samples_leaf=3, random_state=7)
    return model.fit(features(weather), weather[target_of(weather)].to_numpy(dtype=float))


def each_day(weather: pd.DataFrame) -> Iterator[tuple[date, float]]:
    """Every day with its value, as plain Python objects."""
    days = pd.DatetimeIndex(weather.index).to_pydatetime()
    return zip((day.date() for day in days), weather[target_of(weather)].to_list(), strict=True)


def highest_tenth(weather: pd.DataFrame) -> float:
    """The value that a tenth of the days exceeds."""
    return float(np.quantile(weather[target_of(weather)].to_numpy(dtype=float), 0.9))


def records_so_far(weather: pd.DataFrame) -> Iterator[tuple[date, float]]:
    """Walk through the days and yield each new record high. A generator: it stands between two records."""
    highest = float("-inf")
    for day, value in each_day(weather):
        if value > highest:
            highest = value
            yield day, highest


def counter_of_days_above(limit: float) -> Callable[[float], int]:
    """A closure that remembers how many of the values it was shown lie above the limit."""
    count = 0

    def show(value: float) -> int:
        nonlocal count
        count += value > limit
        return count

    return show


def month_of(weather: pd.DataFrame, month: str) -> pd.Series:
    """The values of one month, such as `2015-07`."""
    stamps = pd.DatetimeIndex(weather.index).strftime("%Y-%m")
    return weather.loc[stamps == month, target_of(weather)]


def fingerprint(weather: pd.DataFrame, model: RandomForestRegressor) -> str:
    """A digest of every number in the table and of what the model says to each day."""
    digest = hashlib.sha256(weather.to_csv().encode())
    digest.update(model.predict(features(weather)).tobytes())
    return digest.hexdigest()[:16]
