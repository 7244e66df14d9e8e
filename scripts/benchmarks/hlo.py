"""What an optimised HLO module says of itself: cycles, collectives, kernels and their bytes."""

import collections
import math
import re
from typing import NamedTuple

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
SHAPE = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
COLLECTIVES = (
    "all-reduce all-gather reduce-scatter collective-permute all-to-all ragged-all-to-all"
).split()
# What starts no kernel on a GPU: names, views, and what is computed when the program is loaded.
NO_KERNEL = {
    *"parameter bitcast get-tuple-element tuple constant iota copy-done after-all".split(),
    *"partition-id replica-id conditional async-start async-done".split(),
}


class Instruction(NamedTuple):
    """One line: its name, type, operation, and what follows the operation."""

    name: str
    type: str
    op: str
    rest: str

    def called(self, attribute: str) -> str | None:
        """Returns the name of the computation that `attribute` ("body", "calls") names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found and found[1]


class Module:
    """The text of `jax.stages.Compiled.as_text()`, read."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.endswith("{") and ("->" in line or line.startswith("ENTRY")):
                name = re.match(r"^(?:ENTRY )?%?([\w.\-]+)", line)[1]
                current = self.computations[name] = []
                if line.startswith("ENTRY"):
                    self.entry = name
            elif match := INSTRUCTION.match(line):
                type_text, rest = _split_type(match[2])
                op = re.match(r"([a-z][\w\-]*)\(", rest)
                if op:
                    current.append(Instruction(match[1], type_text, op[1], rest))

    def loops(self, computation: str | None = None) -> list[tuple[int, str]]:
        """Returns (turns, name of the body) of each loop in a computation; None: the entry."""
        loops = []
        for instruction in self.computations[computation or self.entry]:
            if instruction.op == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
                turns = int(known[1]) if known else self._bound(instruction.called("condition"))
                loops.append((turns, instruction.called("body")))
        return loops

    def _bound(self, condition):
        """The largest constant that a loop's condition compares with."""
        constants = [
            re.search(r"constant\((\d+)\)", instruction.rest)
            for instruction in self.computations[condition]
            if instruction.op == "constant"
        ]
        return max([int(found[1]) for found in constants if found] or [1])

    def cycles(self, computation: str | None = None) -> int:
        """Returns the TPU compiler's estimate for a computation, its loops times their turns."""
        computation = computation or self.entry
        rests = (instruction.rest for instruction in self.computations[computation])
        found = [int(n) for rest in rests for n in re.findall(r'"estimated_cycles":"(\d+)"', rest)]
        return sum(found) + sum(
            turns * self.cycles(body) for turns, body in self.loops(computation)
        )

    def collectives(self) -> dict[str, int]:
        """Returns how many there are of each kind, those in a loop once.

        A TPU spreads one over the fusions that run meanwhile; its parts name the same chain.
        """
        found = {
            (instruction.op.removesuffix("-start"), chain[1] if chain else (name, i))
            for name, instructions in self.computations.items()
            for i, instruction in enumerate(instructions)
            for chain in [re.search(r'chain_id="(\d+)"', instruction.rest)]
        }
        counts = collections.Counter(kind for kind, _ in found)
        return {kind: counts[kind] for kind in COLLECTIVES if counts[kind]}

    def kernels(self, computation: str | None = None) -> tuple[int, float]:
        """Returns how many kernels a GPU starts, and the bytes of all their operands and results.

        Of an operand that a fusion only gathers or slices from, the result counts. Loops count
        their turns.
        """
        number, moved = 0, 0.0
        instructions = self.computations[computation or self.entry]
        types = {instruction.name: instruction.type for instruction in instructions}
        for instruction in instructions:
            if instruction.op == "call":
                more = self.kernels(instruction.called("to_apply"))
                number, moved = number + more[0], moved + more[1]
            elif instruction.op != "while" and instruction.op not in NO_KERNEL:
                types_read = [types.get(name, "") for name in _operands(instruction.rest)]
                number += 1
                moved += _bytes(instruction.type) + self._bytes_read(instruction, types_read)
        for turns, body in self.loops(computation):
            more = self.kernels(body)
            number, moved = number + turns * more[0], moved + turns * more[1]
        return number, moved

    def _bytes_read(self, instruction, operands):
        """The bytes that a kernel reads of operands of these types."""
        inside = self.computations.get(instruction.called("calls"), [])
        source = {}  # name -> number of the operand that it is, or a view of
        sliced: dict[int, float] = {}
        whole = set() if inside else set(range(len(operands)))
        for each in inside:
            names = _operands(each.rest)
            if each.op == "parameter":
                source[each.name] = int(re.match(r"parameter\((\d+)\)", each.rest)[1])
            elif each.op in ("bitcast", "reshape") and names[0] in source:
                source[each.name] = source[names[0]]
            elif each.op in ("gather", "dynamic-slice") and names[0] in source:
                of = source[names[0]]
                sliced[of] = sliced.get(of, 0) + _bytes(each.type)
                whole |= {source[name] for name in names[1:] if name in source}
            else:
                whole |= {source[name] for name in names if name in source}
        return sum(
            _bytes(text) if i in whole else sliced.get(i, 0) for i, text in enumerate(operands)
        )


def _split_type(text):
    """("f32[..]{..}" or "(..)", what follows)."""
    if not text.startswith("("):
        head, _, tail = text.partition(" ")
        return head, tail
    end = _closing(text)
    return text[: end + 1], text[end + 2 :]


def _closing(text):
    """The place of the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and character == ")":
            return i
    return len(text) - 1


def _operands(rest):
    start = rest.index("(")
    return re.findall(r"%([\w.\-]+)", rest[start : start + _closing(rest[start:])])


def _bytes(type_text):
    return sum(
        BYTES.get(dtype, 4) * math.prod(int(d) for d in dims.split(",") if d)
        for dtype, dims in SHAPE.findall(type_text)
    )
