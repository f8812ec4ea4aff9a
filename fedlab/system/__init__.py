"""Simulate devices, links and clocks; plan what large models cost."""

from fedlab.system.devices import Fleet, draw_fleet, training_flops
from fedlab.system.edge import hierarchical
from fedlab.system.events import Workload, timetable
from fedlab.system.gossip import gossip, mixing_matrix, spectral_gap
from fedlab.system.placement import pieces_of, pieces_of_layers, placements
from fedlab.system.policies import fedbuff, synchronous
from fedlab.system.selection import fair, fastest, oort
from fedlab.system.simulation import simulate, stream_simulation
from fedlab.system.split_learning import CutTraffic, split_learning

__all__ = [
    "CutTraffic",
    "Fleet",
    "Workload",
    "draw_fleet",
    "fair",
    "fastest",
    "fedbuff",
    "gossip",
    "hierarchical",
    "mixing_matrix",
    "oort",
    "pieces_of",
    "pieces_of_layers",
    "placements",
    "simulate",
    "spectral_gap",
    "split_learning",
    "synchronous",
    "timetable",
    "training_flops",
    "stream_simulation",
]
