"""What the forward pass in the tensor cores costs, read from the compiled code; it takes no GPU."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "forward_pass.cu"
MAX_REGISTERS = 168  # then 12 warps fit on a multiprocessor
MIN_SHARE = 0.15  # of the products in the tensor cores, of all instructions
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)


@pytest.fixture(scope="module", params=["true", "false"], ids=["silu", "leaky"])
def silu(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=["false", "true"], ids=["rough", "accurate"])
def accurate(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def compiled(silu, accurate, tmp_path_factory) -> tuple[str, Path]:
    """What the assembler says, and the machine code for sm_90."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    code = tmp_path_factory.mktemp("code") / "forward_pass.cubin"
    flags = ["-O3", "-arch=sm_90", "-std=c++17", "-Werror=all-warnings", "-Xptxas=-v"]
    options = [f"-DSILU={silu}", f"-DACCURATE={accurate}"]
    command = ["nvcc", "-cubin", "-o", str(code), str(SOURCE), *options, *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr, code


def test_registers_suffice(compiled):
    told, _ = compiled
    (registers,) = re.findall(r"Used (\d+) registers", told)
    assert int(registers) <= MAX_REGISTERS
    assert re.findall(r"(\d+) bytes spill", told) == ["0", "0"]


def test_instructions_are_few_and_know_their_memory(compiled, accurate):
    if (program := shutil.which("nvdisasm")) is None:
        pytest.skip("no nvdisasm")
    command = [program, "-c", str(compiled[1])]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = Counter(INSTRUCTION.findall(text))
    assert counts["LD"] == counts["ST"] == 0, "loads from any memory, in place of shared memory"
    # 2 products of each of 8 blocks of outputs with each block of inputs, 5 in the first layer and
    # 8 in another; thrice that for pairs of halves; 8 of the output row with each half.
    products = 2 * 8 * (5 + 8)
    assert counts["HMMA"] == (3 * products + 16 if accurate == "true" else products + 8)
    assert counts["HMMA"] >= MIN_SHARE * counts.total()
