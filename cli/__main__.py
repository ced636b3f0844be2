"""`python -P -m cli`: `keepstep`, for who starts it by its interpreter: a service, a supervisor."""

from cli.main import main

main()
