"""The two action distributions of the suite's stochastic policies in NumPy, with the gradients that learning needs.

A policy network gives `outputs` (B, k): the mean of a Gaussian with a state-independent log standard deviation (k,), or
the logits of a categorical distribution. Gradients are with respect to these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal actions: mean (B, k), log_std (k,)."""

    mean: Array
    log_std: Array

    def sample(self, rng: np.random.Generator) -> Array:
        """(B, k) float32"""
        noise: Array = rng.standard_normal(self.mean.shape, np.float32)
        noise *= np.exp(self.log_std)
        noise += self.mean
        return noise

    def mode(self) -> Array:
        return self.mean

    def standardized(self, actions: Array) -> Array:
        """(a - mean) / std, (B, k)"""
        z: Array = (actions - self.mean) * np.exp(-self.log_std)
        return z

    def log_prob(self, actions: Array) -> Array:
        """(B,), the sum over action dimensions."""
        z = self.standardized(actions)
        result: Array = -0.5 * np.einsum("ij,ij->i", z, z) - (self.log_std.sum() + HALF_LOG_2PI * len(self.log_std))
        return result

    def entropy(self) -> float:
        """The same for every state."""
        return float(self.log_std.sum()) + (0.5 + HALF_LOG_2PI) * len(self.log_std)

    def gradient(self, actions: Array, log_prob: Array, entropy: float = 0.0) -> tuple[Array, Array]:
        """Of sum_i log_prob_i log p(a_i) + entropy * H: with respect to mean (B, k) and log_std (k,)."""
        z = self.standardized(actions)
        weighted = log_prob[:, None] * z
        log_std: Array = np.einsum("ij,ij->j", weighted, z) - (log_prob.sum() - entropy)
        weighted *= np.exp(-self.log_std)
        return weighted, log_std

    def kl(self, other: Gaussian) -> Array:
        """KL(self || other) by action dimension, (B, k)."""
        variance = np.exp(2 * (self.log_std - other.log_std))
        distance = (self.mean - other.mean) * np.exp(-other.log_std)
        result: Array = other.log_std - self.log_std + 0.5 * (variance + distance * distance - 1)
        return result

    def kl_gradient(self, other: Gaussian) -> tuple[Array, Array]:
        """Of KL(self || other), with respect to this mean and log_std, both (B, k)."""
        mean = (self.mean - other.mean) * np.exp(-2 * other.log_std)
        return mean, np.broadcast_to(np.exp(2 * (self.log_std - other.log_std)) - 1, mean.shape)

    def reverse_kl_gradient(self, other: Gaussian) -> tuple[Array, Array]:
        """Of KL(other || self), with respect to this mean and log_std, both (B, k)."""
        precision = np.exp(-2 * self.log_std)
        distance = self.mean - other.mean
        return distance * precision, 1 - (np.exp(2 * other.log_std) + distance * distance) * precision


@dataclass(frozen=True)
class Categorical:
    """Numbered actions: log_probs (B, k), normalised."""

    log_probs: Array

    @staticmethod
    def of(logits: Array) -> Categorical:
        shifted = logits - logits.max(1, keepdims=True)
        return Categorical(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))

    def sample(self, rng: np.random.Generator) -> Array:
        """(B,) int64"""
        return self.at(rng.random(len(self.log_probs)))

    def at(self, uniforms: Array) -> Array:
        """The actions (B,) at `uniforms` (B,) in [0, 1) of the cumulative distribution."""
        cumulative = np.cumsum(np.exp(self.log_probs, dtype=np.float64), 1)
        actions: Array = (cumulative < (uniforms * cumulative[:, -1])[:, None]).sum(1)
        return actions

    def mode(self) -> Array:
        actions: Array = self.log_probs.argmax(1)
        return actions

    def log_prob(self, actions: Array) -> Array:
        """(B,)"""
        result: Array = self.log_probs[np.arange(len(actions)), actions]
        return result

    def entropies(self) -> Array:
        """(B,)"""
        result: Array = -np.einsum("ij,ij->i", np.exp(self.log_probs), self.log_probs)
        return result

    def entropy(self) -> float:
        """The mean over states."""
        return float(self.entropies().mean())

    def gradient(self, actions: Array, log_prob: Array, entropy: float = 0.0) -> Array:
        """Of sum_i log_prob_i log p(a_i) + entropy * mean H: with respect to the logits, (B, k)."""
        p = np.exp(self.log_probs)
        result: Array = -log_prob[:, None] * p
        result[np.arange(len(actions)), actions] += log_prob
        if entropy:
            result -= (entropy / len(p)) * p * (self.log_probs + self.entropies()[:, None])
        return result

    def kl(self, other: Categorical) -> Array:
        """KL(self || other), (B,)."""
        result: Array = np.einsum("ij,ij->i", np.exp(self.log_probs), self.log_probs - other.log_probs)
        return result

    def kl_gradient(self, other: Categorical) -> Array:
        """Of KL(self || other), with respect to these logits, (B, k)."""
        result: Array = np.exp(self.log_probs) * (self.log_probs - other.log_probs - self.kl(other)[:, None])
        return result

    def reverse_kl_gradient(self, other: Categorical) -> Array:
        """Of KL(other || self), with respect to these logits, (B, k)."""
        result: Array = np.exp(self.log_probs) - np.exp(other.log_probs)
        return result
