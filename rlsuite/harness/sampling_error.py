"""The sampling error of a buffer: how far its actions are from those that the policy would give on average.

    SE = KL(pi_D || pi) = mean over (s, a) in D of [log pi_D(a|s) - log pi(a|s)]

in nats per action, with pi_D the maximum-likelihood fit to the buffer D within the policy's own class (Corrado and
Hanna, arXiv:2311.08290). The hidden layers stay as they are and only the head is fitted, from the policy's own weights:
a whole network would fit the noise of a few thousand actions. So SE is never negative, and 2 N SE of N actions drawn
from the policy itself follows, for large N, a chi-squared distribution with as many degrees of freedom as the head has
free parameters.

Everything is computed in float64 from arrays, without random numbers: `features` (N, k) are the outputs of the last
hidden layer at the states of the buffer, `weight` (out, k) and `bias` (out,) are the policy's head, and `actions` are
what the policy's distribution gives, before any clipping. Every function raises ValueError for arrays of wrong shapes,
for numbers that are not finite, and for a buffer too small for its head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, xlogy

Array = NDArray[np.float64]

RESOLUTION = 1e-6  # relative: what is smaller in features or actions is the rounding of float32, a few units of it
ITERATIONS = 50


@dataclass(frozen=True)
class SamplingError:
    """A measured sampling error, with what it takes to compare it: levels of different estimators do not compare."""

    value: float  # nats per action, at least 0
    parameters: int  # free parameters of the fit, without directions in which the features do not vary
    samples: int
    estimator: str  # "least squares", "L-BFGS" or "counts"

    @property
    def expected(self) -> float:
        """The mean over buffers of as many actions drawn from the policy itself, to first order in 1 / samples."""
        return self.parameters / (2 * self.samples)


def gaussian(
    features: ArrayLike, actions: ArrayLike, weight: ArrayLike, bias: ArrayLike, log_std: ArrayLike
) -> SamplingError:
    """For actions (N, a) ~ Normal(features @ weight.T + bias, exp(log_std)^2), `log_std` (a,): exact, least squares."""
    x, u, outputs = _linear_head(features, actions, weight, bias)
    sigma, floor = _sigma(log_std, u)
    basis = _basis(x)
    error = u - outputs
    residual = error - basis @ (basis.T @ error) / len(x)
    value = _gaussian_gain(_mean_square(residual), _mean_square(error), sigma, floor)
    return SamplingError(value, u.shape[1] * (basis.shape[1] + 1), len(x), "least squares")


def tanh_gaussian(
    features: ArrayLike, actions: ArrayLike, weight: ArrayLike, bias: ArrayLike, log_std: ArrayLike
) -> SamplingError:
    """`gaussian` with the mean tanh(features @ weight.T + bias).

    The fit is not convex: it is the optimum that 50 iterations of L-BFGS reach for each action dimension.
    """
    x, u, outputs = _linear_head(features, actions, weight, bias)
    sigma, floor = _sigma(log_std, u)
    basis = _basis(x)
    start = _mean_square(u - np.tanh(outputs))
    fitted = [_tanh_fit(basis, z, y) for z, y in zip(outputs.T, u.T, strict=True)]
    value = _gaussian_gain(np.minimum(fitted, start), start, sigma, floor)
    return SamplingError(value, u.shape[1] * (basis.shape[1] + 1), len(x), "L-BFGS")


def categorical(features: ArrayLike, actions: ArrayLike, weight: ArrayLike, bias: ArrayLike) -> SamplingError:
    """For actions (N,), integers below n, ~ softmax(features @ weight.T + bias), `weight` (n, k), `bias` (n,).

    The fit is convex, and 50 iterations of L-BFGS end at its optimum or, where that is at infinity because features
    separate the actions, so near that nothing more is gained.
    """
    w = _numbers("weight", weight, -1, -1)
    x = _features(features, w.shape[1])
    taken = _integers("actions", actions, len(x), len(w))
    logits = x @ w.T + _numbers("bias", bias, len(w))
    basis = _basis(x)
    rows = np.arange(len(x))

    def loss(step: Array) -> tuple[float, Array]:
        log_probs = log_softmax(logits + basis @ step.reshape(-1, len(w)), axis=1)
        slope = np.exp(log_probs)
        slope[rows, taken] -= 1
        return -float(log_probs[rows, taken].mean()), (basis.T @ slope).ravel() / len(x)

    size = basis.shape[1] * len(w)
    value = loss(np.zeros(size))[0] - _lowest(loss, size)
    return SamplingError(max(value, 0.0), basis.shape[1] * (len(w) - 1), len(x), "L-BFGS")


def tabular(states: ArrayLike, actions: ArrayLike, logits: ArrayLike) -> SamplingError:
    """For actions (N,) ~ softmax(logits[states]), `logits` (n_states, n_actions): exact, by counts.

    Log-probabilities are logits as well. Only the states that occur have parameters.
    """
    log_probs = log_softmax(_numbers("logits", logits, -1, -1), axis=1)
    s = _integers("states", states, -1, len(log_probs))
    a = _integers("actions", actions, len(s), log_probs.shape[1])
    counts = np.bincount(s * log_probs.shape[1] + a, minlength=log_probs.size).reshape(log_probs.shape)
    visits = counts.sum(1)
    value = float(xlogy(counts, counts).sum() - xlogy(visits, visits).sum() - (counts * log_probs).sum()) / len(s)
    parameters = int((visits > 0).sum()) * (log_probs.shape[1] - 1)
    return SamplingError(max(value, 0.0), parameters, len(s), "counts")


def _basis(x: Array) -> Array:
    """(N, r): orthogonal columns of mean square 1 that span the features and the constant.

    Equal, dead and saturated units add no column. In these coordinates a least-squares fit is a projection, and the
    curvature of every fit is near the identity, which is why so few iterations suffice.
    """
    left, size, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    varies = size > RESOLUTION * np.abs(x).max() * np.sqrt(len(x))
    return np.hstack([np.ones((len(x), 1)), left[:, varies] * np.sqrt(len(x))])


def _tanh_fit(basis: Array, outputs: Array, actions: Array) -> float:
    """The least mean squared error of tanh(outputs + basis @ step) to one action dimension, both (N,), over steps."""
    scale = float(_mean_square(actions - np.tanh(outputs))) or 1.0

    def loss(step: Array) -> tuple[float, Array]:
        mean = np.tanh(outputs + basis @ step)
        error = actions - mean
        gradient = -2 * basis.T @ (error * (1 - mean * mean)) / (len(error) * scale)
        return float(_mean_square(error)) / scale, gradient

    return scale * _lowest(loss, basis.shape[1])


def _lowest(loss: Callable[[Array], tuple[float, Array]], size: int) -> float:
    """The smallest loss that L-BFGS finds from zero; `loss` gives value and gradient, both of order 1."""
    options = {"maxiter": ITERATIONS, "maxcor": 20, "ftol": 1e-11, "gtol": 1e-8}
    return float(minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", options=options).fun)


def _sigma(log_std: ArrayLike, actions: Array) -> tuple[Array, Array]:
    """Standard deviations (a,) of the policy, and the smallest that a fit may have.

    Actions that the features explain exactly would make the likelihood infinite, but what is finer than the rounding of
    the actions is no observation. The policy's own is never below the floor, so that the policy is one of the fits.
    """
    sigma = np.exp(_numbers("log_std", log_std, actions.shape[1]))
    return sigma, np.minimum(sigma, RESOLUTION * np.maximum(sigma, np.abs(actions).max(0)))


def _gaussian_gain(fitted: Array, start: Array, sigma: Array, floor: Array) -> float:
    """Mean log-likelihood of the fit less that of the policy, from the mean squared errors (a,) of both."""
    best = np.maximum(fitted, floor**2)
    gain = np.log(sigma) - 0.5 * np.log(best) + 0.5 * (start / sigma**2 - fitted / best)
    return max(float(gain.sum()), 0.0)


def _mean_square(errors: Array) -> Array:
    return np.asarray(np.square(errors).mean(0))


def _linear_head(
    features: ArrayLike, actions: ArrayLike, weight: ArrayLike, bias: ArrayLike
) -> tuple[Array, Array, Array]:
    """Checked features (N, k), real-valued actions (N, a) and outputs of the head (N, a)."""
    w = _numbers("weight", weight, -1, -1)
    x = _features(features, w.shape[1])
    return x, _numbers("actions", actions, len(x), len(w)), x @ w.T + _numbers("bias", bias, len(w))


def _features(values: ArrayLike, width: int) -> Array:
    x = _numbers("features", values, -1, width)
    if len(x) <= width + 1:
        raise ValueError(
            f"{len(x)} samples cannot measure the sampling error of a head with {width} features and a bias; "
            f"collect at least {width + 2}."
        )
    return x


def _numbers(name: str, values: ArrayLike, *shape: int) -> Array:
    """`values` in float64; -1 in `shape` is any positive size."""
    array = np.asarray(values, np.float64)
    _check_shape(name, array, *shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but some are not.")
    return array


def _integers(name: str, values: ArrayLike, length: int, below: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    _check_shape(name, array, length)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= below:
        raise ValueError(f"{name} must be integers from 0 to {below - 1}.")
    return array.astype(np.int64)


def _check_shape(name: str, array: NDArray[np.generic], *shape: int) -> None:
    fits = len(array.shape) == len(shape) and all(n in (m, -1) for m, n in zip(array.shape, shape, strict=True))
    if not fits or array.size == 0:
        wanted = ", ".join("any" if n == -1 else str(n) for n in shape)
        raise ValueError(f"{name} must have the shape ({wanted}), not {array.shape}, and must not be empty.")
