import io

import pytest
from rich.console import Console

from autoshard.cli._plan_table import group_leaves, plan_table
from autoshard.plan import LeafPlan, MeshShape, Plan, Spec

MESH = MeshShape(("data",), (2,))


def _leaf(path, reason="cut", *, shape=(4,), cut=True, follows=()):
    return LeafPlan(
        path=path,
        shape=shape,
        dtype="float32",
        nbytes=4 * shape[0],
        spec=Spec((("data",) if cut else (),)),
        reason=reason,
        carried=True,
        mesh=MESH,
        follows=follows,
    )


def _follower(path, *leaders, **options):
    return _leaf(path, "; ".join(f"follows {l}" for l in leaders), follows=leaders, **options)


def _rows(*leaves):
    return [(row.path, len(row.leaves), row.reason) for row in group_leaves(leaves)]


def test_layers_share_a_row():
    leaves = [_leaf(f"params/h_{i}/{name}") for i in range(12) for name in ("a", "b")]
    assert _rows(*leaves) == [("params/h_{0-11}/a", 12, "cut"), ("params/h_{0-11}/b", 12, "cut")]


def test_a_layer_that_differs_has_its_own_row():
    leaves = [_leaf(f"h_{i}", cut=i != 1) for i in range(4)]
    assert _rows(*leaves) == [("h_{0,2,3}", 3, "cut"), ("h_1", 1, "cut")]
    assert _rows(_leaf("h_0", "cut"), _leaf("h_1", "pinned")) == [
        ("h_0", 1, "cut"),
        ("h_1", 1, "pinned"),
    ]
    assert _rows(_leaf("h_0"), _leaf("h_1", shape=(8,))) == [("h_0", 1, "cut"), ("h_1", 1, "cut")]


def test_braces_stand_for_every_combination_or_for_none():
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    leaves = [_leaf(f"h_{i}/ln_{j}") for i, j in pairs]
    assert _rows(*leaves) == [("h_{0-1}/ln_{0-1}", 4, "cut")]
    assert _rows(*leaves[:3]) == [(f"h_{i}/ln_{j}", 1, "cut") for i, j in pairs[:3]]


def test_reasons_name_the_layers_too_and_keep_their_sizes():
    leaves = [_leaf(f"h_{i}/w", f"follows other/h_{i}/w; dimension {1} (1)") for i in (1, 2)]
    assert _rows(*leaves) == [("h_{1-2}/w", 2, "follows other/h_{1-2}/w; dimension 1 (1)")]


def test_numbered_entries_of_a_list_share_a_row():
    leaves = [_leaf(f"params/{i}/w", f"follows other/params/{i}/w") for i in range(3)]
    assert _rows(*leaves) == [("params/{0-2}/w", 3, "follows other/params/{0-2}/w")]


def test_what_follows_a_parameter_joins_its_row():
    leaves = [_leaf(f"params/h_{i}/w") for i in range(2)]
    leaves += [
        _follower(f"opt/0/{name}/h_{i}/w", f"params/h_{i}/w")
        for name in ("mu", "nu")
        for i in range(2)
    ]
    (row,) = group_leaves(leaves)
    assert row.path == "params/h_{0-1}/w"
    assert row.followers == ("opt/0/mu", "opt/0/nu")
    assert row.leaves == tuple(leaves)
    assert row.bytes_per_device == 6 * 8


def test_any_of_the_leaders_will_do():
    leaves = [_leaf("params/w"), _follower("mu/w", "batch/x", "params/w")]
    assert [row.followers for row in group_leaves(leaves)] == [("mu",)]


def test_each_leaf_follows_its_own_counterpart():
    leaves = [_leaf(f"params/{i}") for i in range(2)]
    leaves += [_follower(f"mu/{i}", f"params/{1 - i}") for i in range(2)]
    assert len(group_leaves(leaves)) == 2


@pytest.mark.parametrize(
    "follower",
    [
        _follower("mu/w", "params/w", cut=False),
        _follower("mu/w", "params/w", shape=(8,)),
        _follower("mu/w", "something/else"),
        _leaf("mu/w", "follows params/w in words only"),
    ],
)
def test_what_follows_in_part_only_stays_apart(follower):
    assert len(group_leaves([_leaf("params/w"), follower])) == 2


def test_followers_of_followers_lose_no_leaf():
    leaves = [
        _leaf("params/w"),
        _follower("mu/w", "params/w"),
        _follower("ema/w", "mu/w"),
    ]
    rows = group_leaves(leaves)
    assert sorted(leaf.path for row in rows for leaf in row.leaves) == ["ema/w", "mu/w", "params/w"]


@pytest.mark.parametrize("every_leaf", [False, True])
def test_the_table_adds_up(every_leaf):
    leaves = [_leaf(f"params/h_{i}/w") for i in range(3)]
    leaves += [_follower(f"mu/h_{i}/w", f"params/h_{i}/w") for i in range(3)]
    plan = Plan(name="step", mesh=MESH, strategy="zero3", arguments=tuple(leaves), results=())
    table = plan_table(plan, width=120, every_leaf=every_leaf)
    assert table.row_count == (6 if every_leaf else 1)
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    text = stream.getvalue()
    assert "step: zero3 on data=2" in text
    assert "6 arguments" in text
    assert "96 B" in text  # whole
    assert "48 B" in text  # per device
    assert ("6 x float32[4]" in text) == ("+ mu/..." in text) == (not every_leaf)
