"""`keepstep samples`: what the model answered while it trained."""
