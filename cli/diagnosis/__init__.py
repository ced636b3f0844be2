"""Commands that say what happened: failures, explanations, logs."""
