"""Configurations that no one wrote in earnest: one line each, and at once."""

import time

import pytest

from dss.errors import InputError
from dss.run import load_config

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


def refusal(path, content: str | bytes) -> str:
    """The error of a configuration file, which must be one short line within a second."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert time.perf_counter() - start < 1
    message = str(caught.value)
    assert "\n" not in message and len(message) < len(str(path)) + 400
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: " + "9" * 5000, "a number of 5000 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5002 digits"),
        ("seed: 0x" + "f" * 900, "seed must be at least 0"),
        ("0x" + "f" * 900 + ": 3", "unknown key 5104866514"),
        ("seed: 0x_", "not valid YAML"),
        ("fit: {lr: 1" + ":59" * 300 + ".5}", "not valid YAML"),
        ("[" * 5000, "more than 8 levels"),
        ("- " * 5000, "more than 8 levels"),
        ("{a: " * 4000, "more than 8 levels"),
        ("seed: !!float abc", "tags"),
        ("seed: !!int abc", "tags"),
        ("seed: !!timestamp abc", "tags"),
        ("seed: !!binary '*'", "tags"),
        ("? !!set {a}\n: 3", "tags"),
        (BOMB, "aliases"),
        ("fit: &fit {epochs: 3, more: *fit}", "aliases"),
        ("{<<: {seed: 1}}", "unknown key <<"),
        ("seed: 2020-13-45", "seed must be int; got '2020-13-45'"),
        ("2020-01-01: 3", "unknown key 2020-01-01"),
        ("seed: " + "x" * 20_000, "more than 16,384 characters"),
        ("seed: " + "x" * 16_000, "seed must be int; got 'xxx"),
        ("x" * 16_000 + ": 3", "not valid YAML"),
        ("? " + "x" * 16_000 + "\n: 3", "unknown key xxx"),
        ('"a\\nb": 3', "unknown key a b"),
        ("seed: [" + "1, " * 5_000 + "]", "seed must be int; got [1, 1"),
        ("field: {method: [a]}", "unknown field.method ['a']"),
        ("field: {method: {a: b}}", "unknown field.method"),
        ("field: {method: 3}", "unknown field.method 3"),
        ("field: [a]", "field is a section, got ['a']"),
        ("spheres: {method: [cover]}", "spheres.method must be one of"),
        ("mesh: {path: [a]}", "mesh.path must be str"),
        ("scene: [a]", "scene is a section"),
        ("scene: {}\nsampler: {method: [a]}", "unknown sampler.method"),
        ("[a]: 3", "unhashable key"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_a_monstrous_file_is_one_line_at_once(tmp_path, content, message):
    assert message in refusal(tmp_path / "some.yaml", content)


def test_an_endless_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "some.yaml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="no such configuration file"):
        load_config(tmp_path / "some.yaml")


def test_a_date_is_a_text(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("mesh: {path: 2020-01-01}\n")
    assert load_config(path).mesh.path == "2020-01-01"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.epochs=" + "9" * 5000, "a number of 5000 digits"),
        ("fit.epochs=" + "[" * 5000, "more than 8 levels"),
        ("fit.epochs=!!float abc", "tags"),
        ("fit.epochs=2020-01-01", "fit.epochs must be int"),
        ("\udcff=3", "unknown key"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_monstrous_override_is_one_line(override, message):
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert message in str(caught.value) and len(str(caught.value)) < 400
