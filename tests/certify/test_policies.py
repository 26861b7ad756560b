"""Whatever acts is read as it acts, without running what a file says; what cannot be had so is refused."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import asdict
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rlsuite.algorithms.policy_smoothing import QPolicy
from rlsuite.certify.policies import load
from rlsuite.errors import UserError
from rlsuite.harness import sb3
from rlsuite.harness.config import load_algorithm
from rlsuite.harness.networks import ActorCritic, DeterministicActor
from tests.certify.subjects import jittered, run_of, wave

VECTORS = spaces.Box(-np.inf, np.inf, (6,), np.float32)
PICTURES = spaces.Box(0, 1, (2, 36, 40), np.float32)
BYTES = spaces.Box(0, 255, (2, 36, 40), np.uint8)
THREE = spaces.Discrete(3)
UNEVEN = spaces.Box(np.float32([-1, -0.123456789, 0]), np.float32([2, 0.3, 1e-3]))
FLOATS = {"normalize_images": False}  # pictures that need no scaling


class Nothing(gym.Env):
    """Spaces, and nothing that happens in them."""

    def __init__(self, observations, actions):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


def model(name, observations, actions, given=None, **options):
    """An untrained model of Stable-Baselines3 whose weights are not those that it begins with."""
    cls = getattr(stable_baselines3, name)
    if name not in ("PPO", "A2C"):
        options["buffer_size"] = 10
    torch.manual_seed(1)
    policy = options.pop("policy", "CnnPolicy" if len(observations.shape) == 3 else "MlpPolicy")
    made = cls(policy, Nothing(observations, actions), policy_kwargs={**(given or {})}, device="cpu", **options)
    jittered(made.policy)
    return made


def saved(made, tmp_path):
    path = tmp_path / "model.zip"
    made.save(path)
    return path


def decided(made, observations):
    return made.predict(observations, deterministic=True)[0]


# Stable-Baselines3


@pytest.mark.parametrize(
    ("name", "observations", "actions", "given"),
    [
        ("DQN", VECTORS, THREE, {}),
        ("DQN", VECTORS, THREE, {"net_arch": [], "activation_fn": nn.Tanh}),
        ("DQN", VECTORS, THREE, {"net_arch": [7, 5, 6], "activation_fn": nn.Tanh}),
        ("PPO", VECTORS, THREE, {}),
        ("PPO", VECTORS, UNEVEN, {"net_arch": {"pi": [5], "vf": [9, 9]}, "activation_fn": nn.ReLU}),
        ("PPO", VECTORS, THREE, {"net_arch": []}),
        ("A2C", VECTORS, UNEVEN, {}),
        ("TD3", VECTORS, UNEVEN, {}),
        ("TD3", VECTORS, UNEVEN, {"net_arch": [], "n_critics": 1}),
        ("DDPG", VECTORS, UNEVEN, {"net_arch": [8, 8]}),
        ("SAC", VECTORS, UNEVEN, {}),
        ("SAC", VECTORS, UNEVEN, {"net_arch": [], "use_expln": True}),
        ("DQN", PICTURES, THREE, FLOATS),
        ("PPO", PICTURES, THREE, FLOATS),
        ("PPO", PICTURES, UNEVEN, {**FLOATS, "share_features_extractor": False}),
        ("SAC", PICTURES, UNEVEN, FLOATS),
        ("DQN", BYTES, THREE, {}),
        ("PPO", BYTES, THREE, {}),
    ],
)
def test_a_zip_acts_as_its_model_predicts(name, observations, actions, given, tmp_path):
    made = model(name, observations, actions, given)
    subject = load(saved(made, tmp_path))
    x = wave(observations)
    expected = decided(made, x)
    shown = (x / np.float32(255) if x.dtype == np.uint8 else x).astype(np.float32)
    found = subject.act(shown)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert len(np.unique(expected, axis=0)) > 1 or "net_arch" in given
    assert subject.name == "model" and not subject.stochastic and subject.env == ""
    if name == "DQN":
        with torch.no_grad():
            values = made.q_net(torch.from_numpy(x))
            torch.testing.assert_close(subject.network.outputs(torch.from_numpy(shown)), values, rtol=1e-5, atol=1e-5)


def test_what_an_attacker_differentiates_is_the_actor_and_its_critic(tmp_path):
    """Gradients too, and the critic at actions in the units of the environment."""
    made = model("TD3", VECTORS, UNEVEN)
    network = load(saved(made, tmp_path)).network
    x = torch.from_numpy(wave(VECTORS)).requires_grad_()
    scaled = made.actor(x)
    low, high = torch.from_numpy(UNEVEN.low), torch.from_numpy(UNEVEN.high)
    actions = low + (scaled + 1) / 2 * (high - low)
    values = made.critic(x, scaled)[0].squeeze(1)
    torch.testing.assert_close(network.outputs(x), actions)
    torch.testing.assert_close(network.critic(x, actions), values, rtol=1e-4, atol=1e-5)
    (theirs,) = torch.autograd.grad(values.sum(), x)
    (ours,) = torch.autograd.grad(network.critic(x, network.outputs(x)).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


class Squashing(BaseFeaturesExtractor):
    """An extractor without weights."""

    def __init__(self, space):
        super().__init__(space, space.shape[0])

    def forward(self, x):
        return 3 * torch.tanh(x)


class Mixing(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 5)
        self.mix = nn.Linear(space.shape[0], 5)

    def forward(self, x):
        return self.mix(x)


class Rescaling(ActorCriticPolicy):
    """A policy whose weights have the names of another one's, and mean something else."""

    def extract_features(self, obs, features_extractor=None):
        return super().extract_features(obs.sin(), features_extractor)


def normalised():
    """A model with layer normalisation inside its network."""
    made = model("DQN", VECTORS, THREE, {"net_arch": [8]})
    made.policy.q_net.q_net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    return made


UNUSUAL = {
    "activation": lambda: model("PPO", VECTORS, THREE, {"activation_fn": nn.LeakyReLU}),
    "activation of an actor": lambda: model("TD3", VECTORS, UNEVEN, {"activation_fn": nn.ELU}),
    "partial activation": lambda: model("DQN", VECTORS, THREE, {"activation_fn": partial(nn.LeakyReLU, 0.5)}),
    "extractor with weights": lambda: model("DQN", VECTORS, THREE, {"features_extractor_class": Mixing}),
    "extractor without weights": lambda: model("DQN", VECTORS, THREE, {"features_extractor_class": Squashing}),
    "the same, on-policy": lambda: model("PPO", VECTORS, THREE, {"features_extractor_class": Squashing}),
    "policy of one's own": lambda: model("PPO", VECTORS, THREE, policy=Rescaling),
    "state-dependent exploration": lambda: model("PPO", VECTORS, UNEVEN, use_sde=True),
    "bytes that are not scaled": lambda: model("DQN", BYTES, THREE, FLOATS),
    "several actions": lambda: model("PPO", VECTORS, spaces.MultiDiscrete([3, 2])),
    "switches": lambda: model("PPO", VECTORS, spaces.MultiBinary(4)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_network_is_refused_unless_its_file_is_trusted(name, tmp_path):
    made = UNUSUAL[name]()
    path = saved(made, tmp_path)
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert "model.zip" in message and "--trust-pickle" in message and "\n" not in message
    subject = load(path, trust_pickle=True)
    space = made.observation_space
    x = wave(space)
    shown = (x / np.float32(255) if x.dtype == np.uint8 else x).astype(np.float32)
    np.testing.assert_allclose(subject.act(shown), decided(made, x), rtol=0, atol=1e-6)
    assert subject.network is None


def test_layer_normalisation_inside_is_refused(tmp_path):
    with pytest.raises(UserError, match="--trust-pickle"):
        load(saved(normalised(), tmp_path))


def rewritten(path, change):
    """The zip with members changed: name -> bytes, or None to leave it out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members = {name: content for name, content in {**members, **change}.items() if content is not None}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def stored(thing) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def about(path) -> dict:
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("data"))


def weights(path) -> dict:
    with zipfile.ZipFile(path) as file:
        return torch.load(io.BytesIO(file.read("policy.pth")), weights_only=True)


@pytest.fixture
def dqn(tmp_path):
    return saved(model("DQN", VECTORS, THREE, {"net_arch": [8]}), tmp_path)


@pytest.fixture
def ppo(tmp_path):
    return saved(model("PPO", VECTORS, THREE, {"net_arch": [8]}), tmp_path)


@pytest.mark.parametrize("part", ["lstm_actor.weight_ih_l0", "features_extractor.mix.weight", "action_dist.weight"])
def test_a_policy_with_parts_of_its_own_is_refused(part, ppo):
    """A recurrent one, say: what acts is more than the layers that have familiar names."""
    rewritten(ppo, {"policy.pth": stored(weights(ppo) | {part: torch.ones(4, 6)})})
    with pytest.raises(UserError, match="--trust-pickle"):
        load(ppo)


DAMAGED = {
    "no description": {"data": None},
    "no weights": {"policy.pth": None},
    "description is no JSON": {"data": b"no JSON"},
    "empty description": {"data": b"{}"},
    "description is a list": {"data": b"[1, 2]"},
    "description of something else": {"data": b'{"action_space": 3, "policy_kwargs": 5}'},
    "weights are text": {"policy.pth": b"no weights"},
    "weights are a list": {"policy.pth": stored([torch.ones(3)])},
    "weights are a tensor": {"policy.pth": stored(torch.ones(3))},
    "empty weights": {"policy.pth": stored({})},
    "a weight is text": {"policy.pth": stored({"q_net.q_net.0.weight": "text", "q_net.q_net.0.bias": 5})},
    "a bias is missing": {"policy.pth": stored({"q_net.q_net.0.weight": torch.ones(3, 6)})},
    "a bias has another shape": {
        "policy.pth": stored({"q_net.q_net.0.weight": torch.ones(3, 6), "q_net.q_net.0.bias": torch.ones(4)})
    },
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_zip_is_one_sentence(dqn, name):
    rewritten(dqn, DAMAGED[name])
    with pytest.raises(UserError) as caught:
        load(dqn)
    message = str(caught.value)
    assert "model.zip" in message and "\n" not in message and len(message) < 400


def test_a_zip_that_was_cut_or_is_none_is_one_sentence(dqn):
    content = dqn.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"text"):
        dqn.write_bytes(wrong)
        with pytest.raises(UserError, match=r"model\.zip"):
            load(dqn)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def serialized(trap) -> str:
    import base64
    import pickle

    return base64.b64encode(pickle.dumps(trap)).decode()


@pytest.mark.parametrize("usual", [True, False])
def test_what_a_file_would_run_is_not_run(usual, tmp_path):
    """Neither where the network can be had without it, nor where the file is refused; only where it is trusted."""
    sprung = tmp_path / "sprung"
    path = saved(model("DQN", VECTORS, THREE, {"activation_fn": nn.ReLU if usual else nn.LeakyReLU}), tmp_path)
    data = about(path)
    data["lr_schedule"] = {":type:": "<class 'function'>", ":serialized:": serialized(Trap(sprung))}
    rewritten(path, {"data": json.dumps(data).encode()})
    if usual:
        assert load(path).network is not None
        load(path, trust_pickle=True)  # there is no need for what it is trusted with
        assert not sprung.exists()
    else:
        with pytest.raises(UserError, match="--trust-pickle"):
            load(path)
        assert not sprung.exists()
        load(path, trust_pickle=True)
        assert sprung.exists()  # the trap works


def test_weights_that_would_run_something_are_refused(dqn, tmp_path):
    sprung = tmp_path / "sprung"
    rewritten(dqn, {"policy.pth": stored(Trap(sprung))})
    with pytest.raises(UserError, match=r"model\.zip"):
        load(dqn)
    assert not sprung.exists()
    torch.load(io.BytesIO(zipfile.ZipFile(dqn).read("policy.pth")), weights_only=False)
    assert sprung.exists()


def test_a_trusted_file_that_cannot_be_loaded_is_one_sentence(tmp_path):
    path = saved(model("DQN", VECTORS, THREE, {"activation_fn": nn.LeakyReLU}), tmp_path)
    data = about(path)
    data["policy_class"]["__module__"] = "sb3_contrib.nowhere.policies"
    rewritten(path, {"data": json.dumps(data).encode()})
    with pytest.raises(UserError) as caught:
        load(path, trust_pickle=True)
    assert "sb3_contrib" in str(caught.value)
    data = about(path)
    data["policy_class"] = {
        ":type:": "<class 'abc.ABCMeta'>",
        ":serialized:": "AAAA",
        "__module__": "stable_baselines3.dqn.policies",
    }
    rewritten(path, {"data": json.dumps(data).encode()})
    with pytest.raises(UserError, match=r"model\.zip"):
        load(path, trust_pickle=True)


# The suite's own


def actor_critic(low, observations=(5,), normalize=True):
    high = None if low is None else [1.0] * 3
    policy = ActorCritic(observations, 3, low, high, (16, 16), normalize=normalize)
    jittered(policy)
    if policy.normalizer is not None:
        policy.normalizer.update(3 + 2 * np.random.default_rng(0).standard_normal((50, *observations)))
    return policy


def deterministic():
    policy = jittered(DeterministicActor(5, 3, 2.0, (16, 16)))
    policy.set_normalizer(torch.arange(5.0), torch.arange(1.0, 6.0))
    return policy


def library(name, observations, actions, low=None, dtype="float32", **given):
    config = load_algorithm(f"sb3:{name}").module.Config(**{"env": "x", "hidden": (16, 16), **given})
    high = None if low is None else [1.0] * actions
    policy = sb3.Policy(name, asdict(config), observations, dtype, actions, low, high)
    jittered(policy.model.policy)
    return policy


OWN = {
    "values": ("policy_smoothing", lambda: jittered(QPolicy((5,), 3, (16, 16)))),
    "values of pictures": ("policy_smoothing", lambda: jittered(QPolicy((2, 36, 40), 3))),
    "discrete": ("ppo", lambda: actor_critic(None)),
    "continuous": ("ppo", lambda: actor_critic([-1.0] * 3)),
    "not normalised": ("ppo", lambda: actor_critic(None, normalize=False)),
    "offline": ("td3_bc", deterministic),
    "library, discrete": ("sb3:dqn", lambda: library("dqn", (5,), 3)),
    "library, continuous": ("sb3:sac", lambda: library("sac", (5,), 3, [-1.0] * 3)),
    "library, on-policy": ("sb3:ppo", lambda: library("ppo", (5,), 3)),
    "library, pictures": ("sb3:dqn", lambda: library("dqn", (2, 36, 40), 3)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_run_acts_as_its_policy_and_so_does_what_is_attacked(name, tmp_path):
    algorithm, make = OWN[name]
    policy = make()
    env, shape = ("Some-v0#sigma=0.1", (2, 36, 40)) if "pictures" in name else ("Some-v0", (5,))
    run = run_of(policy, tmp_path / "run", env, algorithm)
    subject = load(run)
    x = wave(spaces.Box(-np.inf, np.inf, shape, np.float32))
    assert np.array_equal(subject.act(x), policy.act(x))
    found = subject.network.act(x)
    if not subject.network.discrete:
        found = np.clip(found, -2.0 if name == "offline" else -1.0, 2.0 if name == "offline" else 1.0)
    np.testing.assert_allclose(found, policy.act(x), rtol=0, atol=1e-5)
    assert subject.network.discrete == (policy.act(x).ndim == 1)
    assert (subject.name, subject.env, len(subject.digest)) == (algorithm, env, 64)
    assert load(run / "policy.npz").digest == subject.digest


@pytest.mark.parametrize("env", ["ale-dqn/Pong", "Pictures-v0"])
@pytest.mark.parametrize("kind", ["own", "library"])
def test_a_policy_of_bytes_is_shown_what_it_was_trained_on(kind, env, tmp_path):
    """Frames under noise are floats in [0, 1]; it saw 0 to 255."""
    gym.register("Pictures-v0", entry_point=partial(Nothing, BYTES, THREE))
    try:
        algorithm = "ppo" if kind == "own" else "sb3:dqn"
        policy = (
            actor_critic(None, (2, 36, 40))
            if kind == "own"
            else library("dqn", (2, 36, 40), 3, dtype="uint8", hidden=())
        )
        subject = load(run_of(policy, tmp_path / "run", env, algorithm))
        x = wave(BYTES)
        expected = policy.act(x)
        assert len({*expected}) > 1
        assert np.array_equal(subject.act(x / np.float32(255)), expected)
        if subject.network is not None:
            assert np.array_equal(subject.network.act(x / np.float32(255)), expected)
    finally:
        del gym.registry["Pictures-v0"]


def test_a_policy_that_was_trained_on_noisy_pictures_is_shown_them_as_they_are(tmp_path):
    policy = jittered(QPolicy((2, 36, 40), 3))
    subject = load(run_of(policy, tmp_path / "run", "ale-dqn/Pong#frames=2,sigma=0.05"))
    x = wave(PICTURES)
    assert np.array_equal(subject.act(x), policy.act(x))
    assert np.array_equal(subject.network.act(x), policy.act(x))


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_a_library_policy_with_moments_is_attacked_through_them(name, tmp_path):
    low = None if name == "ppo" else [-1.0] * 3
    policy = library(name, (5,), 3, low, normalize_observations=True)
    moments = policy.normalizer.obs_rms
    moments.mean, moments.var = np.arange(5.0), np.arange(1.0, 6.0) ** 2
    subject = load(run_of(policy, tmp_path / "run", "Some-v0", f"sb3:{name}"))
    x = 10 * wave(spaces.Box(-np.inf, np.inf, (5,), np.float32))
    assert np.array_equal(subject.act(x), policy.act(x))
    np.testing.assert_allclose(subject.network.act(x), policy.act(x), rtol=0, atol=1e-5)
    if name == "sac":
        seen = torch.from_numpy(policy.normalizer.normalize_obs(x)).float()
        actions = torch.from_numpy(policy.act(x))
        expected = policy.model.critic.q1_forward(seen, actions).squeeze(1)
        torch.testing.assert_close(subject.network.critic(torch.from_numpy(x), actions), expected, rtol=1e-4, atol=1e-5)


def test_convolutions_in_bfloat16_are_another_policy_of_another_name(tmp_path):
    policy = jittered(QPolicy((2, 36, 40), 3))
    run = run_of(policy, tmp_path / "run", "ale-dqn/Pong#frames=2,sigma=0.05")
    plain, coarse = load(run), load(run, bfloat16=True)
    x = torch.from_numpy(wave(PICTURES))
    values, near = plain.network.outputs(x).detach(), coarse.network.outputs(x).detach()
    assert near.dtype == torch.float32 and not torch.equal(values, near)
    torch.testing.assert_close(values, near, rtol=0.05, atol=0.05 * float(values.abs().max()))
    assert np.array_equal(coarse.act(x.numpy()), near.argmax(1).numpy())
    assert (plain.name, coarse.name) == ("policy_smoothing", "policy_smoothing, bfloat16")


@pytest.mark.parametrize("kind", ["vectors", "zip"])
def test_what_has_no_convolutions_of_ours_is_not_run_in_bfloat16(kind, tmp_path):
    path = run_of(jittered(QPolicy((5,), 3, (16,))), tmp_path / "run", "Some-v0")
    if kind == "zip":
        path = tmp_path / "model.zip"
        path.write_bytes(b"")
    with pytest.raises(UserError, match="--bfloat16"):
        load(path, bfloat16=True)


def test_a_stochastic_run_is_certified_as_it_is_evaluated(tmp_path):
    policy = actor_critic(None)
    policy.arguments["stochastic"] = policy.stochastic = True
    assert load(run_of(policy, tmp_path / "run", "Some-v0", "ppo")).stochastic


def test_what_is_not_there_is_one_sentence(tmp_path):
    for path in (tmp_path / "nothing.zip", tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="policy"):
            load(path)
