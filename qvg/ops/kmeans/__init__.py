"""k-means of the tokens of every head."""

from __future__ import annotations

from qvg.ops.kmeans.reference import Clusters, assigned, kmeans

__all__ = ["Clusters", "assigned", "kmeans"]
