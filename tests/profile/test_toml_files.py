"""How faults of a TOML file are told."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from pipeline.errors import ProfileError, TaskError
from pipeline.toml_files import Table, check, read_toml, show


class Inner(Table):
    size: int = Field(default=1, ge=1, description="a whole number from 1")
    sizes: list[int] = Field(default=[], description="whole numbers")

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        if "size" in raw and "sizes" in raw:
            yield "size: found both; allowed: one"


class Outer(Table):
    name: str = Field(description="text in quotes")
    inner: Inner | None = None


def faults(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(TaskError) as caught:
        check(raw, Outer, "a.toml", TaskError)
    return caught.value.message.splitlines()


def test_a_good_table_is_returned_frozen() -> None:
    table = check({"name": "x", "inner": {"size": 3}}, Outer, "a.toml", TaskError)
    assert table.inner is not None
    assert table.inner.size == 3


def test_all_faults_are_named_at_once_even_contradictions() -> None:
    found = faults({"inner": {"size": "big", "sizes": [1, "x"], "siez": 2}})
    assert found == [
        "a.toml: name: missing; needed: text in quotes",
        'a.toml: inner.size: found "big"; allowed: a whole number from 1',
        'a.toml: inner.sizes[1]: found "x"; allowed: whole numbers',
        'a.toml: inner.siez: unknown key; did you mean "size"? allowed: size, sizes',
        "a.toml: inner.size: found both; allowed: one",
    ]


def test_a_value_where_a_table_belongs_is_refused() -> None:
    assert faults({"name": "x", "inner": 3}) == ["a.toml: inner: found 3; allowed: a table [inner]"]


@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_types_are_exact(value: object) -> None:
    assert "allowed: a whole number from 1" in faults({"name": "x", "inner": {"size": value}})[0]


def test_toml_syntax_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('a = 1\nb = "open\n')
    with pytest.raises(ProfileError, match=r"broken\.toml: not valid TOML: .*line 2"):
        read_toml(path, ProfileError)


def test_unreadable_files_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ProfileError, match="UTF-8"):
        read_toml(tmp_path / "latin.toml", ProfileError)
    with pytest.raises(ProfileError, match="No such file"):
        read_toml(tmp_path / "none.toml", ProfileError)
    with pytest.raises(ProfileError, match="directory"):
        read_toml(tmp_path, ProfileError)


def test_long_values_are_cut() -> None:
    assert len(show("x" * 500)) < 70
