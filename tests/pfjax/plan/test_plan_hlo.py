"""Copies in loops of small programs; what a compiler writes for TPUs is in test_plan_compile.py."""

import pytest

from pfjax.plan import hlo

SHAPE = (2, 3, 5)
ALIASED = "output_to_operand_aliasing={{}: (0, {})}, "
PROGRAM = """HloModule toy

%fused (p: s8[2,3,5]) -> s8[2,3,5] {
BODY
}

%body (arg: s8[2,3,5]) -> s8[2,3,5] {
  %x = s8[2,3,5]{2,1,0} parameter(0)
  ROOT %kept = s8[2,3,5]{2,1,0} fusion(%x), kind=kLoop, ALIASED calls=%fused
}

ENTRY %main (x: s8[2,3,5]) -> s8[2,3,5] {
  %x = s8[2,3,5]{2,1,0} parameter(0)
  ROOT %loop = s8[2,3,5] while(%x), condition=%condition, body=%body
}
"""
P = "  %p = s8[2,3,5]{2,1,0:T(32,128)(4,1)} parameter(0)"
COPY = "  ROOT %copy.1 = s8[2,3,5]{2,1,0:T(8,128)(4,1)} copy(%p)"
TURN = "  ROOT %turn.1 = s8[5,3,2]{2,1,0} transpose(%p), dimensions={2,1,0}"
ADD = "  %sum.1 = s8[2,3,5]{2,1,0} add(%p, %p)"
SECOND = "  %copy.2 = s8[2,3,5]{2,1,0} copy(%p)"


def copies(*body: str, aliased: str = ALIASED) -> int:
    text = PROGRAM.replace("BODY", "\n".join(body)).replace("ALIASED ", aliased)
    return hlo.copies_in_loops(hlo.parse(text), {SHAPE})


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ((P, COPY), 0),
        ((P, ADD, COPY), 1),
        ((P, SECOND, COPY), 2),
        ((P, SECOND, ADD.replace("%sum", "ROOT %sum")), 1),
        ((P, TURN), 1),
    ],
)
def test_only_a_lone_copy_into_its_operands_memory_is_free(body, count):
    """With anything beside it, or as a transposition, it counts; so it does in memory of its own."""
    assert copies(*body) == count
    assert copies(*body, aliased="") == max(count, 1)
    assert copies(*body, aliased=ALIASED.replace("{}: (0", "{0}: (0")) == max(count, 1)


def test_other_shapes_and_prefetches_do_not_count():
    assert copies(P, COPY.replace("2,3,5", "2,3,4"), aliased="") == 0
    assert copies(P, COPY.replace("(4,1)}", "(4,1)S(1)}"), aliased="") == 0
