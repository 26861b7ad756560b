"""Gymnasium environments of the papers that exist nowhere else, and tiny ones with known answers.

Depends on gymnasium and numpy only; PointMaze, once made, also on gymnasium-robotics. Importing this package registers
its environments, and so does Gymnasium itself for an id with the module in front:

    gymnasium.make("rlsuite_envs:rlsuite/LineWorld-v0")

The package also declares Gymnasium's plugin entry point `gymnasium.envs`, which releases before 1.0 load by themselves;
Gymnasium 1.0 removed that, so it is the import that counts.
"""

from gymnasium.envs.registration import register, registry


def register_envs() -> None:
    """Register every environment of this package; calling it again does nothing."""
    if "rlsuite/LineWorld-v0" in registry:
        return
    register("rlsuite/LineWorld-v0", entry_point="rlsuite_envs.line_world:LineWorld", max_episode_steps=150)
    for name, steps in (("UMaze", 300), ("Medium", 600), ("Large", 800)):
        register(
            f"rlsuite/PointMaze-{name}-v0",
            entry_point="rlsuite_envs.point_maze:PointMaze",
            max_episode_steps=steps,
            kwargs={"maze": name.lower()},
        )


register_envs()
