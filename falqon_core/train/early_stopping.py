"""The best step so far, and the decision to stop. Both depend on `Progress` alone, so that a
continued training decides the same.
"""

from falqon_core.train.checkpoint import Progress


def record_evaluation(progress: Progress, valid_loss: float) -> bool:
    """Record the validation loss of this step. Return whether it is lower than all before."""
    improved = progress.best_valid_loss is None or valid_loss < progress.best_valid_loss
    if improved:
        progress.best_step = progress.step
        progress.best_valid_loss = valid_loss
        progress.num_stale_evaluations = 0
    else:
        progress.num_stale_evaluations += 1
    return improved


def early_stop_reason(progress: Progress) -> str | None:
    """Return the reason to end the training before its last step; None while there is none."""
    patience = progress.recipe.early_stopping_patience
    if patience is None or progress.num_stale_evaluations < patience:
        return None
    return (
        f"{progress.num_stale_evaluations} evaluations without a lower validation loss than "
        f"{progress.best_valid_loss:.4f} of step {progress.best_step}"
    )
