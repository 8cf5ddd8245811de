"""Crops as they look after a trip through the world: compressed, blurred, noisy, small, filmed again; to see how a detector bears it."""

from .registry import ALL, SEVERITIES, Perturbation, parse_perturbations, perturbation_names
from .tokens import PerturbedTokens

__all__ = ["ALL", "SEVERITIES", "Perturbation", "PerturbedTokens", "parse_perturbations", "perturbation_names"]
