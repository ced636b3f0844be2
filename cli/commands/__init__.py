"""Commands of `keepstep`, one module for each group."""
