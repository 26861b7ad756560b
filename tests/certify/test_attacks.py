"""Attackers keep to their budgets, do what is said of them, and do harm; checks of the specification in brackets."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from rlsuite.algorithms.policy_smoothing import QPolicy, band
from rlsuite.certify import play as module
from rlsuite.certify.attacks import ActorAttack, Attacker, PGDAttack, Plan, QAttack, RandomAttack
from rlsuite.certify.certificate import play_policy, seeds_of
from rlsuite.certify.play import play
from rlsuite.certify.policies import Network, Subject, load
from rlsuite.errors import UserError
from rlsuite.harness.networks import DeterministicActor
from rlsuite.harness.smoothing import SmoothedSlots, View
from tests.certify.subjects import STEADY, jittered, linear, run_of, steady

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning")


def subject_of(policy, name="x") -> Subject:
    return Subject(name, policy.act, Network(policy, True))


STEADY_SUBJECT = subject_of(linear(STEADY[1], 5, scale=10.0))  # gaps of some tenths


class Listening:
    """An attacker of `plan`, and all that it did: for each episode of a copy the list of what was added."""

    def __init__(self, make):
        self.make, self.episodes, self.frames = make, [], []

    def __call__(self, envs):
        attacker = self.make(envs)
        running = {}
        begin, perturb = attacker.begin, attacker.perturb

        def listening_begin(slots):
            begin(slots)
            for k in slots.tolist():
                running[k] = []
                self.episodes.append(running[k])

        def listening_perturb(slots, frames):
            before = frames.copy()
            added = perturb(slots, frames)
            assert np.array_equal(before, frames)  # an attacker says what to add, and touches nothing
            assert added.shape == frames.shape and np.isfinite(added).all()
            for k, part, frame in zip(slots.tolist(), added, before, strict=True):
                running[k].append(part.astype(np.float64))
                self.frames.append((frame, part))
            return added

        attacker.begin, attacker.perturb = listening_begin, listening_perturb
        return attacker


def spent(episode) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in episode)))


ACTOR = jittered(DeterministicActor(2, 1, 1.0, (16,)))
ACTOR_SUBJECT = Subject("actor", ACTOR.act, Network(ACTOR, False))
CAR = "MountainCarContinuous-v0#sigma=0.05,steps=6"
SHORT = f"{STEADY[0]},steps=30"
ATTACKS = {  # attack -> (policy, environment, plan)
    "q": (STEADY_SUBJECT, SHORT, {"threshold": 0.1, "samples": 4}),
    "pgd": (STEADY_SUBJECT, SHORT, {"steps": 30, "samples": 2}),
    "random": (STEADY_SUBJECT, SHORT, {"steps": 20}),
    "actor": (ACTOR_SUBJECT, CAR, {"samples": 2}),
}


def attacked(kind, budget, n=6, **given):
    """What was played, and who listened."""
    subject, env, plan = ATTACKS[kind]
    listening = Listening(Plan(kind, budget, **{**plan, **given})(subject))
    return play(subject.act, env, seeds_of(env, n, "attack"), listening), listening


@pytest.mark.parametrize("budget", [0.1, 0.4])
@pytest.mark.parametrize("kind", ATTACKS)
def test_no_episode_costs_more_than_the_budget_and_all_is_accounted_for(kind, budget, monkeypatch):
    """(12) In double precision, from what was really added; in episodes for which the budget does not last, and in
    those that begin in a copy after another one."""
    monkeypatch.setattr(module, "VECTORS", 4)
    played, listening = attacked(kind, budget)
    costs = np.array([spent(episode) for episode in listening.episodes])
    assert len(costs) == 6
    assert (costs**2 <= budget**2 * (1 + 1e-6)).all()
    np.testing.assert_allclose(played.spent, costs, rtol=1e-5, atol=1e-6)
    assert costs[:4].max() > 0.5 * budget and costs[4:].max() > 0.5 * budget
    assert [len(episode) - 1 for episode in listening.episodes] == played.lengths.tolist()


@pytest.mark.parametrize("kind", ATTACKS)
def test_without_a_budget_everything_is_as_without_an_attack(kind):
    """(12) Bit for bit, with the same seeds."""
    subject, env, _ = ATTACKS[kind]
    played, listening = attacked(kind, 0.0)
    clean = play(subject.act, env, seeds_of(env, 6, "attack"))
    assert np.array_equal(played.returns, clean.returns)
    assert np.array_equal(played.lengths, clean.lengths)
    assert not any(part.any() for episode in listening.episodes for part in episode)
    assert not played.spent.any()


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_that_is_repeated_is_the_same(kind):
    first, second = (attacked(kind, 0.1, 2)[0] for _ in range(2))
    assert np.array_equal(first.returns, second.returns) and np.array_equal(first.spent, second.spent)


# The paper's attack


class Wandering:
    """Copies whose frames wander at random, whatever is done; three actions."""

    action_space = spaces.Discrete(3)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, n):
        self.rngs = [np.random.default_rng(k) for k in range(n)]

    def reset(self, slots, seeds):
        self.state = np.stack([rng.normal(size=2) for rng in self.rngs]).astype(np.float32)
        return self.state[slots]

    def step(self, slots, actions):
        moves = np.stack([rng.normal(size=2) for rng in self.rngs]).astype(np.float32)
        self.state = (0.9 * self.state + 0.4 * moves).astype(np.float32)
        nothing = np.zeros(len(slots), bool)
        return self.state[slots], nothing, nothing, nothing, nothing

    def close(self):
        pass


WIDE = jittered(QPolicy((6,), 3, (12, 12)))  # three frames of two numbers
with torch.no_grad():
    WIDE.head.weight0.mul_(4)  # so that the best action changes on short ways


class Serial:
    """The attack of the specification's section 2.5, one copy, one goal and one step after the other."""

    def __init__(self, budget, threshold, step, sigma, samples, seed=0):
        self.left, self.threshold, self.step, self.sigma = budget**2, threshold, step, sigma
        self.samples, self.rng = samples, np.random.default_rng(seed)
        self.clean, self.stored = [], []

    def values(self, frames):
        return WIDE(torch.cat(frames)[None])[0]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        o = torch.from_numpy(frame.copy())
        self.clean = [*self.clean, o][-3:] if self.clean else [o] * 3
        noise = torch.zeros(1, 2)
        if self.sigma:
            everywhere = self.sigma * torch.from_numpy(self.rng.standard_normal((self.samples, 3, 2), np.float32))
            noise = self.sigma * torch.from_numpy(self.rng.standard_normal((self.samples, 2), np.float32))
            q = torch.stack(
                [self.values([f + e for f, e in zip(self.clean, each, strict=True)]) for each in everywhere]
            )
            q = q.mean(0).detach()
        else:
            q = self.values(self.clean).detach()
        b = max(self.left, 0.0) ** 0.5
        best, best_q = None, float(q.max())
        for a in range(3):
            if a == int(q.argmax()) or not q[a] + self.threshold <= q.max():
                continue
            x = o.clone()
            for _ in range(int(2 * b / self.step)):
                x.requires_grad_()
                before = self.stored[-2:] or None
                out = torch.stack([self.values([*(before or [x + e] * 2), x + e]) for e in noise]).mean(0)
                if int(out.argmax()) == a:
                    if q[a] < best_q:
                        best, best_q = x.detach(), float(q[a])
                    break
                (g,) = torch.autograd.grad(-functional.cross_entropy(out[None], torch.tensor([a])), x)
                moved = x.detach() + self.step * g / g.norm()
                away = moved - o
                x = o + away * min(1.0, b / float(away.norm()))
        added = torch.zeros(2) if best is None else best - o
        self.left -= float(added.double().square().sum())
        return added.numpy()

    def store(self, noisy: np.ndarray) -> None:
        """What the agent has got to see of the frame."""
        if not self.stored:
            self.stored = [torch.from_numpy(noisy)] * 2
        self.stored = [*self.stored, torch.from_numpy(noisy)]


@pytest.mark.parametrize(("sigma", "copies"), [(0.0, 4), (0.2, 1)])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_it_is_the_attack_of_the_specification(sigma, copies, threshold):
    """What a literal computation adds, frame by frame, until the budget is spent and after."""
    budget, step, samples = 2.5, 0.15, 3
    envs = SmoothedSlots(Wandering(copies), copies, View(3, (sigma,)))
    attacker = QAttack(envs, budget, WIDE, threshold, step, samples=samples)
    serial = [Serial(budget, threshold, step, sigma, samples) for _ in range(copies)]
    everyone = np.arange(copies)
    moved = 0

    def perturb(slots, frames):
        nonlocal moved
        added = attacker.perturb(slots, frames)
        expected = np.stack([literal(frame) for literal, frame in zip(serial, frames, strict=True)])
        np.testing.assert_allclose(added, expected, atol=2e-5)
        moved += (np.abs(added).sum(1) > 0).sum()
        return added

    envs.perturb = perturb
    envs.reset(everyone, range(copies))
    for t in range(10):
        for k in everyone:
            serial[k].store(envs.stack[k, -1].copy())
        if t < 9:
            envs.step(everyone, everyone)
    assert moved > 2 * copies
    for k in everyone:
        assert attacker.spent(everyone)[k] ** 2 == pytest.approx(budget**2 - serial[k].left, abs=1e-4)
        assert not np.array_equal(serial[k].stored[0], serial[k].stored[-1])


def decide(attacker, threshold):
    """Let the attacker see 10 frames of 5 copies; for each the gap to the worst action, and whether it spent."""
    envs = SmoothedSlots(Wandering(5), 5, View(3))
    made = attacker(envs, threshold)
    gaps, acted = [], []

    def perturb(slots, frames):
        added = made.perturb(slots, frames)
        values = WIDE(torch.from_numpy(made.clean.reshape(5, 6))).detach().numpy()
        gaps.extend(values.max(1) - values.min(1))
        acted.extend(np.abs(added).sum(1) > 0)
        return added

    envs.perturb = perturb
    envs.reset(np.arange(5), range(5))
    for _ in range(9):
        envs.step(np.arange(5), np.arange(5))
    return np.array(gaps), np.array(acted)


def test_nothing_is_spent_where_the_values_differ_by_less_than_the_threshold():
    """(12) And something is spent where they differ by more and there is enough left."""

    def attack(envs, threshold):
        return QAttack(envs, 4.0, WIDE, threshold, step=0.2)

    for threshold in (0.5, 2.0):
        gaps, acted = decide(attack, threshold)
        assert not acted[gaps < threshold - 1e-6].any()
        assert acted[gaps > threshold + 1e-6].any()
    gaps, acted = decide(attack, np.inf)
    assert gaps.max() > 3 and not acted.any()


def test_an_agent_without_noise_takes_another_action_wherever_something_was_spent():
    """And a step of the gradient less would not have been enough."""
    envs = SmoothedSlots(Wandering(20), 20, View(1))
    policy = jittered(QPolicy((2,), 3, ()))
    attacker = QAttack(envs, 5.0, policy, 0.1, step=0.02)
    envs.perturb = attacker.perturb
    envs.reset(np.arange(20), range(20))
    frames, seen = attacker.clean[:, 0], envs.stack[:, 0]
    sizes = np.linalg.norm(seen - frames, axis=1)
    moved = sizes > 1e-6
    assert moved.sum() > 10 and np.ptp(sizes[moved]) > 0.1
    assert (policy.act(seen) != policy.act(frames))[moved].all()
    shorter = frames + (seen - frames) * (1 - 0.025 / np.maximum(sizes, 0.03))[:, None]
    assert (policy.act(shorter) != policy.act(seen))[moved & (sizes > 0.05)].mean() > 0.9


def test_what_is_added_to_pictures_leaves_them_pictures():
    class Grey:
        action_space = spaces.Discrete(3)
        observation_space = spaces.Box(0, 255, (1, 36, 40), np.uint8)

        def reset(self, slots, seeds):
            return np.random.default_rng(0).choice(np.uint8([0, 5, 250, 255]), (len(slots), 1, 36, 40))

    policy = jittered(QPolicy((2, 36, 40), 3))
    envs = SmoothedSlots(Grey(), 4, View(2, (0.05,)))
    attacker = Plan("q", 3.0, samples=2, pictures=True)(subject_of(policy))(envs)
    seen = []

    def perturb(slots, frames):
        added = attacker.perturb(slots, frames)
        seen.append(frames + added)
        return added

    envs.perturb = perturb
    envs.reset(np.arange(4), range(4))
    (frames,) = seen
    assert attacker.spent(np.arange(4)).max() > 0.01
    assert frames.min() >= 0 and frames.max() <= 1 + 1e-6


# The others


def test_equal_shares_are_spent_at_every_step():
    for kind in ("random", "pgd"):
        _, listening = attacked(kind, 0.5, n=3)
        sizes = np.array([np.linalg.norm(part) for part in listening.episodes[0]])
        np.testing.assert_allclose(sizes[:19], 0.5 / np.sqrt(20 if kind == "random" else 30), rtol=1e-3)


def test_random_directions_are_uniform():
    envs = SmoothedSlots(Wandering(4000), 4000, View())
    added = RandomAttack(envs, 1.0, steps=4).choose(np.arange(4000), np.zeros((4000, 2), np.float32))
    np.testing.assert_allclose(np.linalg.norm(added, axis=1), 0.5, rtol=1e-5)
    angles = np.arctan2(added[:, 1], added[:, 0])
    assert abs(np.exp(1j * angles).mean()) < 4 / np.sqrt(4000)
    assert np.histogram(angles, 8, (-np.pi, np.pi))[0].std() < 80


def test_gradient_ascent_goes_against_a_linear_policy_straight():
    """Its loss rises against the rule at every action, so what is added lies along it, and lowers the margin."""
    envs = SmoothedSlots(Wandering(50), 50, View())
    policy = QPolicy((2,), 2, ())
    with torch.no_grad():
        policy.head.weight0.copy_(torch.tensor([[-3.0, -4.0], [3.0, 4.0]]))
        policy.head.bias0.zero_()
    frames = envs.slots.reset(np.arange(50), range(50))
    added = PGDAttack(envs, 0.2, policy, steps=4, iterations=20).choose(np.arange(50), frames)
    margin = frames @ [0.6, 0.8]
    clear = (np.abs(margin) > 0.1) & (
        np.abs(margin) < 2
    )  # the action does not change on the way, nor is it all too sure
    assert clear.sum() > 30
    np.testing.assert_allclose(added[clear] @ [0.6, 0.8], -np.sign(margin[clear]) * 0.1, rtol=0.02)


def test_gradient_ascent_also_finds_the_way_where_values_are_far_apart():
    """A softmax of such values is 1 and 0, and has no slope in float32."""
    envs = SmoothedSlots(Wandering(20), 20, View())
    policy = linear((3.0, 4.0), 1, scale=1000.0)
    frames = envs.slots.reset(np.arange(20), range(20))
    margin = frames @ [0.6, 0.8]
    added = PGDAttack(envs, 0.2, policy, steps=4).choose(np.arange(20), frames)
    far = np.abs(margin) > 0.1
    assert far.sum() > 10
    np.testing.assert_allclose(added[far] @ [0.6, 0.8], -np.sign(margin[far]) * 0.1, rtol=1e-3)


class Driving(Wandering):
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


def actor_attack(network, scale=0.5, budget=0.3):
    """Actions (30,) as they are and under the attack, and what was added."""
    envs = SmoothedSlots(Driving(30), 30, View())
    frames = scale * envs.slots.reset(np.arange(30), range(30))
    attacker = Plan("actor", budget, samples=1)(Subject("x", network.act, network))(envs)
    attacker.clean[:, -1] = frames
    added = attacker.choose(np.arange(30), frames)
    return *(network.act(x)[:, 0] for x in (frames, frames + added)), added


def test_an_actor_is_led_where_its_critic_sees_least():
    low_is_bad = Network(lambda x: x.sum(1, keepdim=True).tanh(), False, lambda x, a: a.squeeze(1))
    usual, other, added = actor_attack(low_is_bad)
    assert (other < usual).all()
    np.testing.assert_allclose(np.linalg.norm(added, axis=1), 0.3, rtol=0.02)


@pytest.mark.parametrize(("steep", "budget"), [(1.0, 0.9), (100.0, 0.3)])
def test_without_a_critic_an_actor_is_led_to_the_other_end_and_no_further(steep, budget):
    """Also where actions are far outside of their range, and clipped."""
    ends = torch.tensor([-1.0]), torch.tensor([1.0])
    raw = Network(lambda x: steep * x.sum(1, keepdim=True), False)
    clipped = replace(raw, bounds=ends)
    (usual, other, added), (acted, led, _) = (actor_attack(network, budget=budget) for network in (raw, clipped))
    costs, reach = np.linalg.norm(added, axis=1), budget * 2**0.5 * steep  # the steepest way is along both numbers
    way = np.where(usual > 0, usual + 1, 1 - usual)  # to the other end
    near, far = way < 0.9 * reach, way > reach + 0.11  # a twentieth of the range before the end is at the end
    assert near.any() and far.any()
    np.testing.assert_allclose((usual - other)[far] * np.sign(usual)[far], reach, rtol=0.02)
    np.testing.assert_allclose(costs[far], budget, rtol=0.02)
    np.testing.assert_allclose(led[near], -np.sign(acted[near]), atol=0.1)
    assert (costs[near] < 0.99 * budget).all()


def test_a_price_keeps_an_actor_attack_cheap():
    envs = SmoothedSlots(Driving(10), 10, View())
    network = Network(lambda x: 0.1 * x.sum(1, keepdim=True), False, lambda x, a: a.squeeze(1))
    frames = envs.slots.reset(np.arange(10), range(10))
    sizes = []
    for price in (1e-4, 10.0):
        attacker = ActorAttack(envs, 0.5, network.outputs, network.critic, price=price)
        attacker.clean[:, -1] = frames
        sizes.append(np.linalg.norm(attacker.choose(np.arange(10), frames), axis=1).max())
    assert sizes[0] > 0.45 and sizes[1] < 0.05


def test_budgets_that_last_for_few_steps_of_a_long_episode_end_in_nothing():
    """What is left becomes too small for float32, and never less than nothing."""
    envs = SmoothedSlots(Wandering(3), 3, View())

    class All(Attacker):
        def choose(self, slots, frames):
            return np.ones_like(frames)

    attacker = All(envs, 0.3)
    total = np.zeros(3)
    for _ in range(300):
        added = attacker.perturb(np.arange(3), np.zeros((3, 2), np.float32))
        assert np.isfinite(added).all()
        total += np.square(added, dtype=np.float64).sum(1)
    assert (attacker.left >= 0).all() and (total <= 0.09 * (1 + 1e-6)).all()
    np.testing.assert_allclose(attacker.spent(np.arange(3)), 0.3, rtol=1e-5)


# Against certificates


@pytest.fixture(scope="module")
def certified():
    """The certificate of the steady policy, from 2000 episodes."""
    policy = linear(STEADY[1], 5)
    clean = play(policy.act, STEADY[0], seeds_of(STEADY[0], 2000)).returns
    return band(clean, 0.05, 0, 200, np.arange(1, 201)), clean


@pytest.mark.parametrize(("kind", "budget"), [("q", 0.2), ("q", 0.8), ("pgd", 0.4), ("random", 0.4)])
def test_no_attack_gets_below_the_certificate(certified, kind, budget):
    """(12) Within three standard errors, at budgets for which much is certified and for which little is."""
    bounds, _ = certified
    policy = linear(STEADY[1], 5)
    make = {
        "q": lambda envs: QAttack(envs, budget, policy, step=0.05, samples=4),
        "pgd": lambda envs: PGDAttack(envs, budget, policy, steps=200, iterations=5, samples=4),
        "random": lambda envs: RandomAttack(envs, budget, steps=200),
    }[kind]
    found = play(policy.act, STEADY[0], seeds_of(STEADY[0], 50, "attack"), make)
    error = found.returns.std(ddof=1) / np.sqrt(50)
    assert found.returns.mean() >= bounds.mean(budget, 0.2) - 3 * error
    assert found.spent.max() > 0.9 * budget


def test_a_policy_without_noise_is_brought_down_by_a_budget_that_a_smoothed_one_withstands(certified):
    """So the attack is one."""
    policy = linear(STEADY[1], 5)
    bare = STEADY[0].replace("sigma=0.2", "sigma=0")

    def attack(envs):
        return QAttack(envs, 1.0, policy, step=0.05, samples=4)

    undefended = play(policy.act, bare, seeds_of(bare, 30, "attack"), attack)
    smoothed = play(policy.act, STEADY[0], seeds_of(STEADY[0], 30, "attack"), attack)
    assert play(policy.act, bare, seeds_of(bare, 30, "attack")).returns.mean() > 195
    assert undefended.returns.mean() < 50 < 120 < smoothed.returns.mean()


# Plans


def test_a_plan_can_be_sent_to_another_process(tmp_path):
    run = steady(tmp_path / "run")
    plan = pickle.loads(pickle.dumps(Plan("q", 0.2, 0.1, samples=2)))
    played = play_policy(run, SHORT, seeds_of(SHORT, 3, "attack"), plan, False)
    assert (played.spent <= 0.2 * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("kind", "discrete", "words"),
    [
        ("q", False, "--attack actor or random"),
        ("pgd", False, "--attack actor or random"),
        ("actor", True, "--attack q or pgd"),
    ],
)
def test_an_attack_of_another_kind_of_policy_is_refused(kind, discrete, words):
    network = Network(lambda x: x, discrete)
    with pytest.raises(UserError, match=words):
        Plan(kind, 0.2, steps=10)(Subject("x", network.act, network))


@pytest.mark.parametrize("kind", ["q", "pgd", "actor"])
def test_a_policy_that_cannot_be_differentiated_is_attacked_at_random_only(kind):
    subject = Subject("x", STEADY_SUBJECT.act, None)
    with pytest.raises(UserError, match="--attack random"):
        Plan(kind, 0.2)(subject)
    assert Plan("random", 0.2, steps=10)(subject)


def test_the_critic_of_a_run_is_what_leads_its_attacker(tmp_path):
    """A zip has its critic; a deterministic actor of the suite has none, and is led away."""
    run = run_of(jittered(DeterministicActor(2, 1, 1.0, (16,))), tmp_path / "run", "MountainCarContinuous-v0", "td3_bc")
    subject = load(run)
    assert subject.network.critic is None
    played = play(subject.act, CAR, seeds_of(CAR, 2, "attack"), Plan("actor", 0.2, samples=1)(subject))
    assert (played.spent > 0).all()
