"""What the forward pass in 16 bits costs, read from the compiled code; it takes no GPU."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "forward_pass.cu"
MAX_REGISTERS = 168  # then 12 warps fit on a multiprocessor
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)


@pytest.fixture(scope="module", params=["true", "false"], ids=["silu", "leaky"])
def compiled(request, tmp_path_factory) -> tuple[str, Path]:
    """What the assembler says, and the machine code for sm_90."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    code = tmp_path_factory.mktemp("code") / "forward_pass.cubin"
    flags = ["-O3", "-arch=sm_90", "-std=c++17", "-Werror=all-warnings", "-Xptxas=-v"]
    command = ["nvcc", "-cubin", "-o", str(code), str(SOURCE), f"-DSILU={request.param}", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr, code


def test_registers_suffice(compiled):
    told, _ = compiled
    (registers,) = re.findall(r"Used (\d+) registers", told)
    assert int(registers) <= MAX_REGISTERS
    assert re.findall(r"(\d+) bytes spill", told) == ["0", "0"]


def test_instructions_are_few_and_know_their_memory(compiled):
    if (program := shutil.which("nvdisasm")) is None:
        pytest.skip("no nvdisasm")
    command = [program, "-c", str(compiled[1])]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = Counter(INSTRUCTION.findall(text))
    assert counts["LD"] == counts["ST"] == 0, "loads from any memory, in place of shared memory"
    # 8 x 4 products of each input tile: 4 tiles of the first layer, 8 of one further layer
    assert counts["HMMA"] == 384
    assert counts["HMMA"] > 0.09 * counts.total()
