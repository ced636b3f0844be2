"""`keepstep status`: what keepstep does now."""
