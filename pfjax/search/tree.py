"""The genealogy of a search: every step that was ever proposed, the dead branches too.

Node (t, i) is the step that slot i made in generation t; its parent is the newest step of the row
it was copied from. A finished particle makes no step, so its node is that of an earlier generation.
A node is alive when a final particle descends from it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Node:
    """One proposed step; `parent` indexes Tree.nodes, -1 for the root. `value` is v_t after it."""

    generation: int
    slot: int
    parent: int
    text: str
    tokens: list[int]
    value: float
    alive: bool
    finished: bool


@dataclass(frozen=True, repr=False)
class Tree:
    """All nodes in order of generation; `leaves[i]` is the node of final particle i."""

    nodes: list[Node]
    leaves: list[int]
    weights: list[float]

    def path(self, particle: int) -> list[Node]:
        """The steps of a final particle, first to last."""
        path, at = [], self.leaves[particle]
        while at >= 0:
            path.append(self.nodes[at])
            at = self.nodes[at].parent
        return path[::-1]

    def children(self, node: int) -> list[int]:
        """Indices of the steps proposed from a node; of the first steps for node -1."""
        return [i for i, n in enumerate(self.nodes) if n.parent == node]

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "nodes": [vars(n) for n in self.nodes],
            "leaves": self.leaves,
            "weights": self.weights,
        }

    def __repr__(self) -> str:
        return f"<Tree of {len(self.nodes)} steps, {len(self.leaves)} particles>"


def build(
    ancestors: np.ndarray,
    moved: np.ndarray,
    values: np.ndarray,
    finished: np.ndarray,
    steps: list[list[tuple[str, list[int]]]],
    weights: np.ndarray,
) -> Tree:
    """The tree of one problem from its generations: all arrays are [t, n], `steps[t][i]` the (text,
    ids) of slot i's step.

    `moved` marks the slots that made a step; `weights` are those of the final particles.
    """
    newest = np.full(ancestors.shape[1], -1)
    rows: list[tuple[int, int, int]] = []
    for t in range(len(ancestors)):
        parents = newest[ancestors[t]]
        newest = parents.copy()
        for i in np.flatnonzero(moved[t]):
            newest[i] = len(rows)
            rows.append((t, int(i), int(parents[i])))
    alive = np.zeros(len(rows) + 1, bool)
    for leaf in newest:
        at = int(leaf)
        while at >= 0 and not alive[at]:
            alive[at] = True
            at = rows[at][2]
    nodes = [
        Node(t, i, parent, *steps[t][i], float(values[t, i]), bool(alive[k]), bool(finished[t, i]))
        for k, (t, i, parent) in enumerate(rows)
    ]
    return Tree(nodes, [int(x) for x in newest], [float(w) for w in weights])
