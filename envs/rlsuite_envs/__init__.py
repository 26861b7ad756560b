"""Gymnasium environments of the papers that exist nowhere else, and tiny ones with known answers.

Depends on gymnasium and numpy only; PointMaze, once made, also on gymnasium-robotics. Importing this package registers
its environments, and so does Gymnasium itself for an id with the module in front:

    gymnasium.make("rlsuite_envs:rlsuite/LineWorld-v0")

The package also declares Gymnasium's plugin entry point `gymnasium.envs`, which releases before 1.0 load by themselves;
Gymnasium 1.0 removed that, so it is the import that counts.
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry


def register_envs() -> None:
    """Register every environment of this package; calling it again does nothing."""
    if "rlsuite/LineWorld-v0" in registry:
        return
    _register("LineWorld", "line_world:LineWorld", 150)
    for name, steps in (("UMaze", 300), ("Medium", 600), ("Large", 800)):
        _register(f"PointMaze-{name}", "point_maze:PointMaze", steps, maze=name.lower())
    for headings in (10, 50, 100):
        _register(f"Discrete2D{headings}", "discrete_2d:Discrete2D", 50, headings=headings)
    for arms in (5, 20, 100, 1000):
        _register(f"Bandit{arms}", "bandit:Bandit", arms=arms)
    _register("GridWorld", "tabular:GridWorld", 30)
    _register("GridWorld9", "tabular:GridWorld", 27, size=9)
    _register("TwoStep", "tabular:TwoStep")
    _register("Chain", "tabular:Chain", 15)
    _register("Enumerable", "enumerable:Enumerable", 4)
    _register("LQR", "lqr:LQR", 20)
    _register_grid("Coverage", "coverage")
    _register_grid("Bimodal", "coverage", weights="bimodal", horizon=40)
    _register_grid("TwoRooms", "two_rooms")
    for instance in range(10):
        _register_grid(f"GP{instance}", "coverage", weights="gp", horizon=40, instance=instance)
        _register_grid(f"Items{instance}", "items", instance=instance)
        _register_grid(f"DDesign{instance}", "d_design", instance=instance)
    for suffix, options in (("", {}), ("History", {"history": True}), ("Modular", {"reward": "additive"})):
        _register(f"AntCoverage{suffix}", "ant_coverage:AntCoverage", 400, **options)
    _register("RaceCar", "race_car:RaceCar", 700)
    _register("RaceCarModular", "race_car:RaceCar", 700, reward="additive")


def _register(name: str, entry_point: str, max_episode_steps: int | None = None, **kwargs: Any) -> None:
    register(
        f"rlsuite/{name}-v0",
        entry_point=f"rlsuite_envs.{entry_point}",
        max_episode_steps=max_episode_steps,
        kwargs=kwargs,
    )


def _register_grid(name: str, task: str, **kwargs: Any) -> None:
    """A registered grid pays F of its start with the first step, so that a return is F of the path."""
    _register(name, f"submodular_tasks:{task}", initial_reward=True, **kwargs)


register_envs()
