"""Faces into people without labels: embeddings in, clusters out."""

from edgeface.cluster.density import density_peaks, diffusion_density
from edgeface.cluster.model import EdgeModel
from edgeface.cluster.neighbours import Neighbours, neighbours
from edgeface.cluster.people import Clusters, cluster

__all__ = [
    "Clusters",
    "EdgeModel",
    "Neighbours",
    "cluster",
    "density_peaks",
    "diffusion_density",
    "neighbours",
]
