"""Simulate devices, links and clocks; plan what large models cost.

TODO
"""

from fedlab.system.edge import hierarchical
from fedlab.system.fleet import Fleet, draw_fleet
from fedlab.system.fleet_files import read_fleet, read_trace
from fedlab.system.gossip import gossip, mixing_matrix, spectral_gap
from fedlab.system.operations import training_flops
from fedlab.system.placement import pieces_of, pieces_of_layers, placements
from fedlab.system.policies import fedbuff, synchronous
from fedlab.system.selection import fair, fastest, oort
from fedlab.system.simulation import simulate, stream_simulation
from fedlab.system.split_learning import CutTraffic, split_learning
from fedlab.system.timetable import timetable
from fedlab.system.trace import Trace
from fedlab.system.work import Workload

__all__ = [
    "CutTraffic",
    "Fleet",
    "Trace",
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
    "read_fleet",
    "read_trace",
    "simulate",
    "spectral_gap",
    "split_learning",
    "stream_simulation",
    "synchronous",
    "timetable",
    "training_flops",
]
