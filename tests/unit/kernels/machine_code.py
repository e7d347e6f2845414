"""What machine code of a GPU is made of, read by the tools that Triton brings along."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass
class Function:
    """Registers of a thread, bytes on its stack, and instructions of each loop; loops may lie within others."""

    registers: int
    stack: int
    loops: list[int] = field(default_factory=list)


def functions(cubin: bytes) -> dict[str, Function]:
    """Functions of compiled code, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def said(*command: str) -> str:
            return subprocess.run([*command, str(path)], check=True, capture_output=True, text=True).stdout

        usage, text = said(str(TOOLS / "cuobjdump"), "-res-usage"), said(str(TOOLS / "nvdisasm"), "-c")
    found = {
        name: Function(int(registers), int(stack))
        for name, registers, stack in re.findall(r"Function (\S+):\s*REG:(\d+) STACK:(\d+)", usage)
    }
    at, labels, current = 0, dict[str, int](), Function(0, 0)
    for line in text.splitlines():
        if section := re.match(r"\.text\.(\S+):", line.strip()):
            at, labels, current = 0, {}, found[section[1]]
        elif label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = at
        elif re.match(r"\s*/\*[0-9a-f]{4,}\*/", line):
            at += 1
            if (back := re.search(r"BRA\S*.*`\((\.L_x_\d+)\)", line)) and back[1] in labels:
                current.loops.append(at - labels[back[1]])
    return found
