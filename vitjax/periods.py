"""When something that happens every so often is due."""


def due(step: int, every_steps: int, last: bool, first: bool = False) -> bool:
    """Whether it is due after `step` steps.

    Args:
      every_steps: the period; 0 or less: only after the last step.
      last: no step follows. Always due then, so that a run never ends between two periods.
      first: also due after step 1, for what a user wants to see at once.
    """
    return last or (first and step == 1) or (every_steps > 0 and step % every_steps == 0)
