import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from autoshard.errors import MeshError
from autoshard.plan import MeshShape, parse_mesh


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "data=8"),
        ("data=8", "data=8"),
        ("data=2,model=4", "data=2,model=4"),
        (" data = 2 , model = 4 ", "data=2,model=4"),
        ("data=-1", "data=8"),
        ("data=-1,model=4", "data=2,model=4"),
        ("data=2,model=-1", "data=2,model=4"),
        ("a=2,b=-1,c=4", "a=2,b=1,c=4"),
        ({"data": 2, "model": 4}, "data=2,model=4"),
        ({"model": 4, "data": -1}, "model=4,data=2"),
        (MeshShape(("x",), (8,)), "x=8"),
        (AbstractMesh((4, 2), ("rows", "columns")), "rows=4,columns=2"),
    ],
)
def test_every_way_to_write_a_mesh(given, text):
    assert str(parse_mesh(given, 8)) == text


def test_a_device_mesh_keeps_its_names_and_order():
    mesh = jax.make_mesh((2, 4), ("b", "a"), axis_types=(AxisType.Auto,) * 2)
    assert parse_mesh(mesh, 8) == MeshShape(("b", "a"), (2, 4))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("", "is not of the form name=size"),
        ("data", "'data' is not of the form name=size"),
        ("data=2,", "'' is not of the form name=size"),
        ("data=two", "'data=two' is not of the form name=size"),
        ("2x4", "'2x4' is not of the form name=size"),
        ("a-b=8", "'a-b=8' is not of the form name=size"),
        ("data=2,data=4", "an axis name stands twice"),
        ("data=0", "every axis has at least one device"),
        ("data=-2", "every axis has at least one device"),
        ("data=0,model=-1", "0 does not divide the 8 visible devices"),
        ("data=3,model=-1", "3 does not divide the 8 visible devices"),
        ("data=-1,model=-1", "only one axis can take what is left"),
        ("data=16", "it needs 16 devices, 8 are visible"),
        ("data=2,model=2", "it needs 4 devices, 8 are visible"),
        ({}, "a mesh has at least one named axis"),
        ({"data": "8"}, "'data': '8' is not a name with a size"),
        ({0: 8}, "0: 8 is not a name with a size"),
        ({"data": True}, "'data': True is not a name with a size"),
        ({"": 8}, "'' is not a name"),
        ({"a+b": 8}, "'a+b' is not a name"),
        (8, "a int is not a mesh"),
        ([("data", 8)], "a list is not a mesh"),
    ],
)
def test_what_is_no_mesh(given, problem):
    with pytest.raises(MeshError) as caught:
        parse_mesh(given, 8)
    assert problem in str(caught.value)
    assert "Mend it:" in str(caught.value)


def test_too_few_devices_names_the_number_to_emulate():
    with pytest.raises(MeshError, match=r"autoshard\.emulate\(16\)"):
        parse_mesh("data=4,model=4", 8)


def test_names_and_sizes_have_to_match():
    with pytest.raises(MeshError):
        MeshShape(("a", "b"), (2,))


def test_sizes_of_axes():
    mesh = MeshShape(("a", "b", "c"), (2, 3, 4))
    assert mesh.size == 24
    assert mesh.size_of(("a", "c")) == 8
    assert mesh.size_of(()) == 1
    assert mesh.axes == {"a": 2, "b": 3, "c": 4}
    assert mesh == MeshShape(("a", "b", "c"), (2, 3, 4))
    assert hash(mesh) == hash(MeshShape(("a", "b", "c"), (2, 3, 4)))
