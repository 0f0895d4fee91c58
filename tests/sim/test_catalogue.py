from trunkline.sim.catalogue import ABOUT, explore_any
from trunkline.sim.realmspec import REALMS
from trunkline.sim.securespec import SECURE
from trunkline.sim.worlds import WORLDS


def test_no_two_worlds_have_one_name() -> None:
    assert len(ABOUT) == len(WORLDS) + len(REALMS) + len(SECURE)


def test_worlds_of_every_kind_are_explored_by_name() -> None:
    for name, faults in (("one", 0), ("replica-altered", 0), ("secure-pair", None)):
        report = explore_any(name, faults=faults)
        assert report.world == name
        assert report.ok, str(report)
        assert report.exhausted
        assert bool(report.fault_points) is (name == "secure-pair")


def test_faults_are_counted() -> None:
    one, two = (explore_any("replica-altered", faults=faults) for faults in (1, 2))
    assert one.ok, str(one)
    assert two.ok, str(two)
    assert two.states > one.states
    assert "2 fault(s): alter" in two.about
