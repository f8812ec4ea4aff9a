"""Simulate devices, links and clocks; plan what large models cost.

Accuracy is real, seconds and joules are modelled. Read the modules in this order:

1. ``devices`` has the figures of devices and links, each with an interval and a source. ``fleet``
   gives every client a device and a link (``draw_fleet``), or reads your own (``read_fleet``).
2. ``policies`` decide when models go out and when the server takes a step: ``synchronous``,
   ``fedbuff``, ``fedasync``, ``tiered``. ``selection`` chooses clients: ``fastest``, ``oort``,
   ``fair``.
3. ``clock`` runs the events of fleet and policy. ``timetable`` runs it alone, with a
   ``Workload`` per client. ``simulate`` runs it with real training.
4. ``hierarchical`` puts edge servers between clients and a cloud, ``gossip`` has no server, and
   ``split_learning`` cuts the model in two.
5. ``planner`` estimates bytes, seconds, memory and energy of models too large to train here.
   ``placements`` lays the pieces of a model along device, edge and cloud.

Example:
    >>> import numpy as np
    >>> from fedlab.system import Workload, draw_fleet, fedbuff, synchronous, timetable
    >>> fleet = draw_fleet(100, seed=0)
    >>> workload = Workload(bytes_down=10**6, flops=np.full(100, 1e12), bytes_up=10**6)
    >>> rounds, _ = timetable(fleet, synchronous(10), workload, rounds=20)
    >>> buffered, _ = timetable(fleet, fedbuff(10, 10), workload, rounds=20)
    >>> bool(buffered["seconds"].sum() < rounds["seconds"].sum())
    True
"""

from fedlab.system.devices import Device, Estimate, Link
from fedlab.system.edge import hierarchical
from fedlab.system.fleet import Fleet, draw_fleet
from fedlab.system.fleet_files import read_fleet, read_trace
from fedlab.system.gossip import gossip, mixing_matrix, spectral_gap
from fedlab.system.operations import training_flops
from fedlab.system.placement import Piece, pieces_of, pieces_of_layers, placements
from fedlab.system.policies import (
    Policy,
    constant,
    fedasync,
    fedbuff,
    hinge,
    polynomial,
    synchronous,
    tiered,
)
from fedlab.system.selection import (
    ClientStats,
    at_random,
    energy_aware,
    fair,
    fastest,
    oort,
    power_of_choice,
    tifl,
)
from fedlab.system.simulation import simulate, stream_simulation
from fedlab.system.split_learning import CutTraffic, split_learning
from fedlab.system.timetable import timetable
from fedlab.system.trace import Trace
from fedlab.system.work import Workload

__all__ = [
    "ClientStats",
    "CutTraffic",
    "Device",
    "Estimate",
    "Fleet",
    "Link",
    "Piece",
    "Policy",
    "Trace",
    "Workload",
    "at_random",
    "constant",
    "draw_fleet",
    "energy_aware",
    "fair",
    "fastest",
    "fedasync",
    "fedbuff",
    "gossip",
    "hierarchical",
    "hinge",
    "mixing_matrix",
    "oort",
    "pieces_of",
    "pieces_of_layers",
    "placements",
    "polynomial",
    "power_of_choice",
    "read_fleet",
    "read_trace",
    "simulate",
    "spectral_gap",
    "split_learning",
    "stream_simulation",
    "synchronous",
    "tiered",
    "tifl",
    "timetable",
    "training_flops",
]
