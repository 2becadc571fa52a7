"""The particle tree for a screen: siblings with the same text are one step with a count.

16 particles then fit on a screen, and when they do not, the lightest branches are folded. Knows
nothing of terminals and colours.
"""

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count as counter

from pfjax.search.tree import Tree

LINES = 32


@dataclass
class Step:
    """Sibling nodes with the same text.

    `count` particles made the step, `dropped` of them left no copy at the next resampling; `share`
    is the weight of the final particles that end here, None if none does. `right` is None where the
    truth is not known.
    """

    text: str
    value: float
    count: int
    dropped: int = 0
    alive: bool = True
    share: float | None = None
    cut: bool = False
    right: bool | None = None
    chosen: bool = False
    below: list["Step"] = field(default_factory=list)

    @property
    def mass(self) -> float:
        """The final weight of everything from here on."""
        return (self.share or 0.0) + sum(s.mass for s in self.below)

    @property
    def lost(self) -> int:
        """Particles dropped from here on."""
        return self.dropped + sum(s.lost for s in self.below)


def merge(
    tree: Tree, chosen: int, right: Sequence[bool] | None = None, cut: Collection[int] = ()
) -> list[Step]:
    """The first steps of a tree, siblings of one text merged, that of particle `chosen` last.

    `right[k]` says whether node k is right; `cut` holds the final particles that ran out of budget.
    """
    children: dict[int, list[int]] = {}
    for k, node in enumerate(tree.nodes):
        children.setdefault(node.parent, []).append(k)
    ends: dict[int, list[int]] = {}
    for i, leaf in enumerate(tree.leaves):
        ends.setdefault(leaf, []).append(i)
    path = set()
    at = tree.leaves[chosen]
    while at >= 0:
        path.add(at)
        at = tree.nodes[at].parent

    def step(text: str, group: list[int]) -> Step:
        final = [i for k in group for i in ends.get(k, [])]
        return Step(
            text=text,
            value=tree.nodes[group[0]].value,
            count=len(group),
            dropped=sum(k not in children and k not in ends for k in group),
            alive=any(tree.nodes[k].alive for k in group),
            share=sum(tree.weights[i] for i in final) if final else None,
            cut=any(i in cut for i in final),
            right=None if right is None else right[group[0]],
            chosen=not path.isdisjoint(group),
            below=steps(group),
        )

    def steps(parents: list[int]) -> list[Step]:
        groups: dict[str, list[int]] = {}
        for parent in parents:
            for k in children.get(parent, []):
                groups.setdefault(" ".join(tree.nodes[k].text.split()), []).append(k)
        merged = [step(text, group) for text, group in groups.items()]
        return sorted(merged, key=lambda s: (s.chosen, s.alive, s.mass, s.count))

    return steps([-1])


def fold(steps: list[Step], lines: int = LINES) -> list[Step]:
    """The tree in about `lines` lines: the heaviest steps stay, the others become one per parent.

    `steps` are changed in place.
    """
    order, kept, heap = counter(), set(), []
    total = sum(s.count for s in steps)
    # Steps not kept, by their parent: one more line where there are any.
    hidden: dict[int | None, int] = {None: len(steps)}

    def push(siblings: list[Step], parent: int | None) -> None:
        for s in siblings:
            weight = s.count + total * s.mass
            heapq.heappush(heap, (not s.chosen, -weight, -next(order), s, parent))

    push(steps, None)
    while heap and (heap[0][3].chosen or len(kept) + sum(map(bool, hidden.values())) < lines):
        *_, s, parent = heapq.heappop(heap)
        kept.add(id(s))
        hidden[parent] -= 1
        hidden[id(s)] = len(s.below)
        push(s.below, id(s))

    def folded(siblings: list[Step]) -> list[Step]:
        rest = [s for s in siblings if id(s) not in kept]
        if len(rest) == 1 and not rest[0].below:
            kept.add(id(rest.pop()))
        for s in siblings:
            s.below = folded(s.below)
        shown = [s for s in siblings if id(s) in kept]
        return [_rest(rest), *shown] if rest else shown

    return folded(steps)


def _rest(steps: list[Step]) -> Step:
    """One line that stands for several branches."""
    mass = sum(s.mass for s in steps)
    return Step(
        text=f"… {len(steps)} more {'branch' if len(steps) == 1 else 'branches'}",
        value=float("nan"),
        count=sum(s.count for s in steps),
        dropped=sum(s.lost for s in steps),
        alive=any(s.alive for s in steps),
        share=mass if any(s.alive for s in steps) else None,
    )
