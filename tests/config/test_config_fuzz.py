"""Mutated configs are a config or a ConfigError that names its place, quickly (P13)."""

from __future__ import annotations

import random
import time

import pytest
from config_catalog import CATALOG, GOOD
from torture_record import pending, recorded

from ppema.config import Config, ConfigError, load_config

SUITE = "config fuzz"
CASES_PER_SEED = 500

TOKENS = [
    *("[", "]", "{", "}", ":", ": ", "- ", ",", "#", "&a ", "*a", "!!str ", "<<: ", "---\n"),
    *("'", '"', "|\n", ">\n", "%YAML 1.1\n", "\n", "\t", "  ", "? ", "~", "1e-3", "1e999"),
    *("-.inf", ".nan", "0x", "name", "epoch: 3\n", "_BASE_: fuzz.yml\n", "é", "\x00", "\ufeff"),
    *("\u2028", "9" * 5000, "a: " * 40, "[" * 300, "{a: " * 300, "x: " + "y" * 999),
    *("name: os.system", "name: builtins.eval"),
]


def mutate(generator, text):
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(text) + 1)
        action = generator.randrange(5)
        if action == 0:
            text = text[:at] + text[at + generator.randint(1, 20) :]
        elif action == 1:
            text = text[:at] + generator.choice(TOKENS) + text[at:]
        elif action == 2:
            text = text[:at] + chr(generator.randrange(1, 0x250)) + text[at + 1 :]
        elif action == 3:
            end = at + generator.randint(1, 60)
            text = text[:end] + text[at:end] * generator.randint(1, 3) + text[end:]
        else:
            lines = text.splitlines(keepends=True)
            generator.shuffle(lines)
            text = "".join(lines)
    return text


def run_cases(folder, seed, num_cases):
    generator = random.Random(seed)
    path = folder / "fuzz.yml"
    slowest = 0.0
    for _ in range(num_cases):
        content = mutate(generator, GOOD).encode("utf-8", "surrogatepass")
        if generator.random() < 0.1:
            at = generator.randrange(len(content) + 1)
            content = content[:at] + bytes([generator.randrange(256)]) + content[at + 1 :]
        path.write_bytes(content)
        started = time.process_time()
        try:
            assert isinstance(load_config(str(path), [], CATALOG), Config)
        except ConfigError as error:
            text = str(error)
            assert text.startswith((str(path), "_BASE_ loop")), (content, text)
            assert "\n" not in text, (content, text)
        slowest = max(slowest, time.process_time() - started)
    return slowest


def test_some_mutations(tmp_path):
    assert run_cases(tmp_path, seed=1, num_cases=400) < 1.0


@pytest.mark.torture
def test_twenty_thousand_mutations(tmp_path):
    for seed in pending(SUITE, range(2, 42)):
        with recorded(SUITE, seed) as figures:
            slowest_s = run_cases(tmp_path, seed, CASES_PER_SEED)
            figures.update(configs=CASES_PER_SEED, slowest_s=round(slowest_s, 4))
            assert slowest_s < 1.0
