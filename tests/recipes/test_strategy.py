import pytest

from autoshard.errors import StrategyError
from autoshard.plan import parse_mesh
from autoshard.recipes import RECIPES, parse_strategy

KNOWN = ("dp", "tensor", "zero3")
"""Some of them: the grammar does not ask which there are."""


@pytest.mark.parametrize(
    ("strategy", "mesh", "terms"),
    [
        ("dp", "data=8", "dp@data"),
        ("dp", "data=2,model=4", "dp@data,model"),
        ("dp", "a=2,b=2,c=2", "dp@a,b,c"),
        ("zero3+tensor", "data=2,model=4", "zero3@data tensor@model"),
        ("tensor+zero3", "data=2,model=4", "tensor@data zero3@model"),
        ("zero3+tensor", "a=2,b=2,c=2", "zero3@a,b tensor@c"),
        ("dp+zero3+tensor", "a=2,b=2,c=2", "dp@a zero3@b tensor@c"),
        ("dp+tensor", "a=1,b=2,c=2,d=2", "dp@a,b,c tensor@d"),
        (" zero3 + tensor ", "data=2,model=4", "zero3@data tensor@model"),
        ("dp@model", "data=2,model=4", "dp@model"),
        ("dp@model,data", "data=2,model=4", "dp@model,data"),
        ("dp@ a , b ", "a=2,b=2,c=2", "dp@a,b"),
        ("zero3@model+tensor@data", "data=2,model=4", "zero3@model tensor@data"),
        ("zero3+tensor@data", "data=2,model=4", "zero3@model tensor@data"),
        ("zero3@c+tensor", "a=2,b=2,c=2", "zero3@c tensor@a,b"),
        ("dp+zero3@a+tensor", "a=2,b=2,c=2", "dp@b zero3@a tensor@c"),
        ("dp@a+zero3@b", "a=2,b=2,c=2", "dp@a zero3@b"),
    ],
)
def test_terms_and_their_axes(strategy, mesh, terms):
    found = parse_strategy(strategy, parse_mesh(mesh, 8), KNOWN)
    assert " ".join(map(str, found)) == terms


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ("", "a strategy is a text of terms joined by '+'"),
        ("  ", "a strategy is a text of terms joined by '+'"),
        (None, "a strategy is a text of terms joined by '+'"),
        (("dp",), "a strategy is a text of terms joined by '+'"),
        ("fsdp", "'fsdp' is no strategy; there are dp, tensor, zero3"),
        ("DP", "'DP' is no strategy"),
        ("dp+", "'' is no strategy"),
        ("+dp", "'' is no strategy"),
        ("dp tensor", "'dp tensor' is no strategy"),
        ("dp@", "'dp@' names no axis after '@'"),
        ("dp@ +tensor", "'dp@' names no axis after '@'"),
        ("dp@data,", "'' is no axis; the mesh has data, model"),
        ("dp@batch", "'batch' is no axis; the mesh has data, model"),
        ("dp@data,data", "axis 'data' is given to two terms"),
        ("dp@data+tensor@data", "axis 'data' is given to two terms"),
        ("dp+zero3+tensor", "3 terms need as many axes, and the mesh has 2"),
        ("dp@data,model+tensor", "for each of 'tensor', 0 of the 2 axes left: none"),
        ("dp@data+zero3+tensor", "of 'zero3' and 'tensor', 1 of the 2 axes left: model"),
    ],
)
def test_what_is_no_strategy(strategy, problem):
    with pytest.raises(StrategyError) as caught:
        parse_strategy(strategy, parse_mesh("data=2,model=4", 8), KNOWN)
    assert problem in str(caught.value)
    assert "Mend it: strategy=" in str(caught.value)


def test_the_known_recipes():
    assert sorted(RECIPES) == [
        "dp",
        "expert",
        "megatron",
        "propagate",
        "replicate",
        "sequence",
        "table",
        "tensor",
        "zero1",
        "zero2",
        "zero3",
    ]
