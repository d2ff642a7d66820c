"""The weather report's plain functions, on the real data set and on a stranger's CSV."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sklearn", reason="the demo's packages are not installed")
pytest.importorskip("vega_datasets", reason="the demo's packages are not installed")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "weather_report"


@pytest.fixture(scope="module")
def weather() -> Iterator[ModuleType]:
    yield from _load("weather")


@pytest.fixture(scope="module")
def page(weather: ModuleType) -> Iterator[ModuleType]:
    yield from _load("page")


def _load(name: str) -> Iterator[ModuleType]:
    """The example's modules import each other by bare name, as in a project of its own."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


def test_the_real_data_set_is_four_years_of_seattle(weather: ModuleType) -> None:
    table = weather.read_weather()
    assert len(table) == 1461
    assert weather.target_of(table) == "temp_max"


def test_any_csv_with_dates_and_numbers_will_do(weather: ModuleType, tmp_path: Path) -> None:
    rows = "\n".join(f"2024-{1 + n // 28:02d}-{1 + n % 28:02d},{n},x" for n in range(90))
    (tmp_path / "any.csv").write_text("when,units sold,remark\n" + rows)
    table = weather.read_weather(str(tmp_path / "any.csv"))
    assert weather.target_of(table) == "units sold"
    assert len(weather.month_of(table, "2024-02")) == 28


@pytest.mark.parametrize(
    ("text", "problem"), [("a,b\n1,2\n", "no column of dates"), ("day,x\n2024-01-01,5\n", "60 dated rows")]
)
def test_a_csv_that_cannot_be_used_says_why(weather: ModuleType, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=problem):
        weather.read_weather(str(tmp_path / "bad.csv"))


def test_records_only_rise_and_end_at_the_highest(weather: ModuleType) -> None:
    table = weather.read_weather()
    values = [value for _, value in weather.records_so_far(table)]
    assert values == sorted(set(values))
    assert values[-1] == table["temp_max"].max()


def test_the_fingerprint_changes_with_the_table_and_with_the_model(weather: ModuleType) -> None:
    table = weather.read_weather()
    model = weather.fit(table)
    print_ = weather.fingerprint(table, model)
    assert print_ == weather.fingerprint(table.copy(), weather.fit(table))
    assert print_ != weather.fingerprint(table.iloc[:-1], model)
    assert print_ != weather.fingerprint(table, weather.fit(table.iloc[:500]))


def test_the_page_holds_its_plot_and_needs_nothing_else(weather: ModuleType, page: ModuleType, tmp_path: Path) -> None:
    table = weather.read_weather()
    path = page.write_page(
        tmp_path / "new", table, weather.fit(table), list(weather.records_so_far(table)), "<2015-07>: mean 28"
    )
    text = path.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "&lt;2015-07&gt;" in text
    assert 'src="http' not in text
    assert "<link" not in text
