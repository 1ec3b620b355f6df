"""Piles of unlabelled pictures: a folder in, people out."""

from edgeface.piles.folder import Sorted, cluster_folder
from edgeface.piles.into import Enrolled, enroll_people

__all__ = ["Enrolled", "Sorted", "cluster_folder", "enroll_people"]
