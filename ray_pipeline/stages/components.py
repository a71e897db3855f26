"""Connected components of a graph too large for one process.

Large-star and small-star in turns, after Kiveris et al., "Connected Components in MapReduce and
Beyond" (SoCC 2014): every turn links nodes to smaller nodes of their neighbourhood, until each
component is a star around its smallest node. A handful of turns for the graphs of duplicates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.tables import Tables
from ray_pipeline.stages.text.keys import run_starts

Ints = npt.NDArray[Any]


def components(edges: Tables, left: str, right: str) -> Tables:
    """The edges with the column ``component``: the smallest node of their component.

    Args:
        edges: tables with two int64 columns of nodes; no edge connects a node to itself.
        left: name of the first column of nodes.
        right: name of the second column of nodes.
    """

    def links(table: pa.Table) -> pa.Table:
        return _larger_to_smaller(table[left].to_numpy(), table[right].to_numpy())

    stars = edges.map(links).saved()
    while stars.num_rows:
        large = stars.map(_both_ways).group(["node"], _large_star, order=["link"], fan_out=2)
        stars = large.group(["node"], _small_star, order=["link"]).saved()
        if not stars.map(_both_ways).group(["node"], _not_yet_stars, order=["link"]).num_rows:
            break
    nodes = edges.map(lambda table: table.append_column("node", table[left]))
    return nodes.also(stars.map(_labels)).group(["node"], _label, order=["component"])


def _larger_to_smaller(one: Ints, other: Ints) -> pa.Table:
    """Distinct links, each from the larger of two nodes to the smaller one; none to itself."""
    node, link = np.maximum(one, other), np.minimum(one, other)
    order = np.lexsort((link, node))
    table = pa.table({"node": node[order], "link": link[order]})
    new = run_starts(table["node"], table["link"]) & (node[order] != link[order])
    return table.filter(pa.array(new))


def _both_ways(links: pa.Table) -> pa.Table:
    node, link = links["node"].to_numpy(), links["link"].to_numpy()
    return pa.table({"node": np.concatenate([node, link]), "link": np.concatenate([link, node])})


def _least_of_run(groups: pa.Table) -> tuple[Ints, Ints, Ints]:
    """Node, link, and the smallest link of the node, of links sorted by node and link."""
    node, link = groups["node"].to_numpy(), groups["link"].to_numpy()
    first = run_starts(groups["node"])
    at = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    return node, link, link[at]


def _large_star(groups: pa.Table) -> pa.Table:
    """Links each larger neighbour of a node to the smallest of the neighbourhood."""
    node, link, least = _least_of_run(groups)
    larger = link > node
    return _larger_to_smaller(link[larger], np.minimum(node, least)[larger])


def _small_star(groups: pa.Table) -> pa.Table:
    """Links a node and its smaller neighbours to the smallest of these neighbours."""
    node, link, least = _least_of_run(groups)
    return _larger_to_smaller(np.concatenate([node, link]), np.concatenate([least, least]))


def _not_yet_stars(groups: pa.Table) -> pa.Table:
    """Nodes with two outgoing links, or with incoming and outgoing ones: not yet in a star."""
    node, link, _ = _least_of_run(groups)
    first = run_starts(groups["node"])
    run = np.cumsum(first) - 1
    smaller = np.bincount(run, weights=link < node)
    larger = np.bincount(run, weights=link > node)
    unsettled = (smaller > 1) | ((smaller > 0) & (larger > 0))
    return pa.table({"node": pa.array(node[first][unsettled])})


def _labels(stars: pa.Table) -> pa.Table:
    """Nodes with their component: the node that each links to, or itself for a centre."""
    node, link = stars["node"].to_numpy(), stars["link"].to_numpy()
    centres = np.unique(link)
    return pa.table(
        {"node": np.concatenate([node, centres]), "component": np.concatenate([link, centres])}
    )


def _label(groups: pa.Table) -> pa.Table:
    """Edges with the component that stands first among the rows of their node."""
    first = run_starts(groups["node"])
    at = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    component = groups["component"].take(pa.array(at))
    groups = groups.drop_columns(["component"]).append_column("component", component)
    edges = pc.is_valid(groups[_payload(groups)])
    return groups.filter(edges).drop_columns(["node"])


def _payload(groups: pa.Table) -> str:
    """A null column in place of one that only edges have."""
    return next(name for name in groups.column_names if name not in ("node", "component"))
