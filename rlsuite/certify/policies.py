"""Whatever acts, ready to be certified: a run, its policy.npz, or a zip file of Stable-Baselines3.

A zip is read without running anything in it: the JSON part as JSON, the weights by torch's weights-only reader, and the
network is inferred from the names and shapes of the weights. What cannot be had so is refused, unless the user says
that the file is to be trusted; then Stable-Baselines3 loads it, which unpickles.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlsuite.data.files import read_json
from rlsuite.errors import UserError, printable
from rlsuite.harness import runs
from rlsuite.harness.networks import ActorCritic, DeterministicActor, NatureCNN
from rlsuite.harness.rollouts import EPSILON, LIMIT

Array = np.ndarray
Outputs = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "<class 'torch.nn.modules.activation.ReLU'>": functional.relu,
    "<class 'torch.nn.modules.activation.Tanh'>": torch.tanh,
}
# What a model of Stable-Baselines3 may have been built with: it shows in the weights, or does not act.
USUAL = {
    "net_arch", "activation_fn", "ortho_init", "log_std_init", "share_features_extractor", "n_critics", "n_quantiles",
    "use_sde", "use_expln", "clip_mean", "normalize_images", "optimizer_class", "optimizer_kwargs", ":type:",
    ":serialized:",
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What of a policy can be differentiated."""

    outputs: Outputs
    """(B, ...) -> action values or logits (B, actions), or continuous actions (B, dims) before they are clipped"""
    discrete: bool
    critic: Callable[[Tensor, Tensor], Tensor] | None = None
    """what continuous actions were trained with: (B, ...), (B, dims) -> values (B,)"""
    bounds: tuple[Tensor, Tensor] | None = None
    """that continuous actions are clipped to"""

    @torch.no_grad()
    def act(self, observations: Array) -> Array:
        y = self.outputs(torch.as_tensor(observations, dtype=torch.float32)).numpy()
        if self.bounds is not None:
            y = y.clip(*(bound.numpy() for bound in self.bounds))
        actions: Array = y.argmax(1) if self.discrete else y
        return actions


@dataclass
class Subject:
    """A frozen policy, and where it comes from."""

    name: str
    act: Callable[..., Array]
    """(B, ...) observations[, (B,) uniform numbers] -> B actions"""
    network: Network | None
    """None where it cannot be had"""
    stochastic: bool = False
    env: str = ""
    """what it was trained in, as its name stands in a run; empty if unknown"""
    digest: str = ""
    """SHA-256 of the file"""


def load(path: Path, trust_pickle: bool = False, bfloat16: bool = False) -> Subject:
    """The policy at `path`, with its convolutions in bfloat16 or as they are.

    UserError if there is none, none that can be read, or, for bfloat16, none of the suite's that has convolutions.
    """
    path, digest = file_of(path)
    if bfloat16 and path.suffix == ".zip":
        raise UserError(f"{path} is a model of Stable-Baselines3, which is not run in bfloat16; leave --bfloat16 out.")
    subject = from_zip(path, trust_pickle) if path.suffix == ".zip" else from_run(path, bfloat16)
    subject.digest = digest
    return subject


def file_of(path: Path) -> tuple[Path, str]:
    """The file of the policy at `path`, and its SHA-256; UserError if there is none."""
    if path.is_dir():
        path = path / "policy.npz"
    if not path.exists():
        raise UserError(
            f"there is no policy at {path}; name a run directory, its policy.npz, or a Stable-Baselines3 zip."
        )
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def from_run(path: Path, bfloat16: bool = False) -> Subject:
    """The policy that a run left at `path`."""
    policy = runs.load_policy(path)
    if bfloat16:
        trunk = getattr(policy, "trunk", None)
        if not isinstance(trunk, NatureCNN):
            raise UserError(f"{path} has no convolutions that could be run in bfloat16; leave --bfloat16 out.")
        trunk.bfloat16()
    manifest = path.parent / "manifest.json"
    about = read_json(manifest) if manifest.exists() else {}
    network, act, env = network_of(policy), policy.act, about.get("env", "")
    pictures = len(policy.arguments.get("observation_shape", ())) == 3
    if pictures and "#" not in env:  # trained on bytes, and shown floats in [0, 1] here
        act = lambda x, *uniforms: policy.act(255 * x, *uniforms)  # noqa: E731
        if network is not None and not hasattr(policy, "model"):  # Stable-Baselines3 scales them itself
            of_bytes = network.outputs
            network = replace(network, outputs=lambda x: of_bytes(255 * x))
    name = about.get("algorithm", path.stem) + ", bfloat16" * bfloat16
    return Subject(name, act, network, getattr(policy, "stochastic", False), env)


def network_of(policy: Any) -> Network | None:
    """What an attacker may differentiate of a policy of the suite."""
    if isinstance(policy, ActorCritic):
        norm = policy.normalizer

        def heads(x: Tensor) -> Tensor:
            if norm is not None:
                mean, deviation = norm.mean.float(), (norm.variance + EPSILON).sqrt().float()
                x = ((x - mean) / deviation).clamp(-LIMIT, LIMIT)
            outputs: Tensor = policy(x)[0]
            return outputs

        return Network(heads, not policy.continuous)
    if isinstance(policy, DeterministicActor):
        return Network(lambda x: policy((x - policy.mean) / policy.std), False)
    if hasattr(policy, "model"):  # Stable-Baselines3's, in a run of the suite
        network = infer(policy.model.policy.state_dict(), policy.arguments["low"], policy.arguments["high"])
        return network if network is None or policy.normalizer is None else behind(policy.normalizer, network)
    return Network(policy, True) if isinstance(policy, nn.Module) else None  # action values


def behind(normalizer: Any, network: Network) -> Network:
    """The network of a policy that sees what VecNormalize makes of observations."""
    moments, limit = normalizer.obs_rms, normalizer.clip_obs
    mean = torch.from_numpy(moments.mean).float()
    deviation = torch.from_numpy(np.sqrt(moments.var + normalizer.epsilon)).float()

    def seen(x: Tensor) -> Tensor:
        return ((x - mean) / deviation).clamp(-limit, limit)

    critic = network.critic and (lambda x, a: network.critic(seen(x), a))  # type: ignore[misc]
    return replace(network, outputs=lambda x: network.outputs(seen(x)), critic=critic)


# ---- Stable-Baselines3


def from_zip(path: Path, trust_pickle: bool) -> Subject:
    """The policy in a file that `model.save` of Stable-Baselines3 wrote."""
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
            weights = torch.load(io.BytesIO(file.read("policy.pth")), map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, json and torch each have their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is no model of Stable-Baselines3 that can be read ({reason[:150]}); save it again."
        ) from error
    try:
        network = described(data, weights)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {printable(error)}"
        raise UserError(f"{path} is no model of Stable-Baselines3 ({reason}); save it again.") from error
    if network is not None:
        return Subject(path.stem, network.act, network)
    if not trust_pickle:
        raise UserError(
            f"the network of {path} cannot be inferred from its weights ({', '.join(sorted(weights)[:3])}, ...); if "
            "you trust who made the file, add --trust-pickle, and Stable-Baselines3 will load it."
        )
    return unpickled(path, data)


def described(data: dict[str, Any], weights: dict[str, Tensor]) -> Network | None:
    """The acting network of a file with this description; None if it is of no kind that is known."""
    space, seen = data["action_space"], data["observation_space"]
    options = data.get("policy_kwargs") or {}
    continuous = "spaces.box.Box" in space[":type:"]
    unusual = (
        not str(data["policy_class"].get("__module__")).startswith("stable_baselines3.")
        or not options.keys() <= USUAL
        or data.get("use_sde")
        or (seen.get("dtype") == "uint8" and not options.get("normalize_images", True))
        or not (continuous or "spaces.discrete.Discrete" in space[":type:"])
    )
    if unusual:
        return None
    low, high = (bounds(space, name) if continuous else None for name in ("low", "high"))
    network = infer(weights, low, high, str(options.get("activation_fn", "")))
    if network is not None:
        shape = [int(number) for number in re.findall(r"\d+", str(seen.get("_shape")))]
        network.act(np.zeros((1, *shape), np.float32))  # says if the weights do not fit each other
    return network


def unpickled(path: Path, data: dict[str, Any]) -> Subject:
    """The same by Stable-Baselines3's own loader, which runs what the file says."""
    from rlsuite.harness.sb3 import find

    module = str(data["policy_class"].get("__module__", ""))
    family = re.match(r"(?:stable_baselines3|sb3_contrib)\.(?!common)(\w+)\.", module)
    try:
        cls = find(family[1] if family else "ppo")  # PPO and A2C share a policy
    except (ImportError, StopIteration):
        raise UserError(
            f"{path} is of {module or 'an unknown class'}, which is not installed here; install it."
        ) from None
    try:
        model = cls.load(path, device="cpu")
    except Exception as error:  # whatever was pickled has its own
        raise UserError(f"{path} cannot be loaded by Stable-Baselines3 ({printable(error)}); save it again.") from error
    scale = np.float32(255 if model.observation_space.dtype == np.uint8 else 1)  # frames are shown as floats in [0, 1]
    return Subject(path.stem, lambda x: model.predict(scale * x, deterministic=True)[0], None)


def bounds(space: dict[str, Any], name: str) -> list[float] | None:
    """`low` or `high` of a stored action space, None where it does not say it."""
    return [float(text) for text in re.findall(r"[-+.\w]+", str(space.get(name, "")))] or None


class Unknown(Exception):
    """Weights of no kind that is known."""


def infer(
    weights: dict[str, Tensor], low: list[float] | None, high: list[float] | None, activation: str = ""
) -> Network | None:
    """The acting network behind these weights; None if they are of no kind that is known.

    `low` and `high` are the bounds of continuous actions, `activation` what the file says of one. All that acts must be
    accounted for: a weight that this network has no place for means that it is another one.
    """
    chosen = ACTIVATIONS.get(activation)
    if activation and chosen is None:
        return None
    store = Store(weights)
    try:
        if "action_net.weight" in weights:
            own, passive = "features_extractor", ["value_net.", "mlp_extractor.value_net.", "log_std"]
            if store.any("pi_features_extractor."):
                own, passive = f"pi_{own}", [*passive, f"vf_{own}.", f"{own}."]
            hidden = store.layers("mlp_extractor.policy_net")
            raw = chain(store.convolutions(own), [*hidden, store.layer("action_net")], chosen or torch.tanh)
            store.finish(*passive)
            return Network(raw, low is None, None, None if low is None else (torch.tensor(low), torch.tensor(high)))
        if store.any("q_net.") and low is None:
            values = chain(
                store.convolutions("q_net.features_extractor"), store.layers("q_net.q_net"), chosen or functional.relu
            )
            store.finish("q_net_target.")
            return Network(values, True)
        if store.any("actor.") and low is not None and high is not None:
            parts = [*store.layers("actor.latent_pi"), store.layer("actor.mu")] if "actor.mu.weight" in weights else []
            squashed = chain(
                store.convolutions("actor.features_extractor"),
                parts or store.layers("actor.mu"),
                chosen or functional.relu,
            )
            store.finish("actor.log_std.", "actor_target.", "critic.", "critic_target.")
            middle, reach = (torch.tensor(low) + torch.tensor(high)) / 2, (torch.tensor(high) - torch.tensor(low)) / 2
            critic = None
            if not store.any("critic.features_extractor."):
                q = chain(None, store.layers("critic.qf0"), chosen or functional.relu)
                critic = lambda x, a: q(torch.cat([x, (a - middle) / reach], 1)).squeeze(1)  # noqa: E731
            return Network(lambda x: middle + reach * torch.tanh(squashed(x)), False, critic)
    except Unknown:
        pass
    return None


class Store:
    """Weights by name, and which of them have found their place."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = {key: value.float() for key, value in weights.items() if isinstance(value, Tensor)}
        self.used: set[str] = set()

    def any(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.weights)

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """The weight, of two axes or a convolution's four, and the bias."""
        weight, bias = self.weights.get(f"{name}.weight"), self.weights.get(f"{name}.bias")
        if weight is None or bias is None or weight.dim() not in (2, 4):
            raise Unknown
        self.used |= {f"{name}.weight", f"{name}.bias"}
        return weight, bias

    def layers(self, prefix: str) -> list[tuple[Tensor, Tensor]]:
        """PREFIX.0, PREFIX.2, ..., which have activations between them."""
        found = (re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.weight", key) for key in self.weights)
        numbers = sorted(int(match[1]) for match in found if match)
        if numbers != [*range(0, 2 * len(numbers), 2)]:
            raise Unknown
        return [self.layer(f"{prefix}.{i}") for i in numbers]

    def convolutions(self, prefix: str) -> Outputs | None:
        """Stable-Baselines3's NatureCNN on pictures of floats in [0, 1]; None where there is none."""
        kernels = self.layers(f"{prefix}.cnn")
        if not kernels:
            return None
        weight, bias = self.layer(f"{prefix}.linear.0")

        def features(x: Tensor) -> Tensor:
            for (kernel, offset), stride in zip(kernels, (4, 2, 1), strict=True):
                x = functional.relu(functional.conv2d(x, kernel, offset, stride))
            return functional.relu(functional.linear(x.flatten(1), weight, bias))

        return features

    def finish(self, *passive: str) -> None:
        """Every weight must have been used, but for those that begin like one of these, which do not act."""
        if any(not key.startswith(passive) for key in self.weights.keys() - self.used):
            raise Unknown


def chain(first: Outputs | None, parts: list[tuple[Tensor, Tensor]], activation: Outputs) -> Outputs:
    """Linear layers with the activation between them, behind `first`."""
    if not parts:
        raise Unknown

    def outputs(x: Tensor) -> Tensor:
        x = x.flatten(1) if first is None else first(x)
        for i, (weight, bias) in enumerate(parts):
            x = functional.linear(x, weight, bias)
            x = activation(x) if i + 1 < len(parts) else x
        return x

    return outputs
