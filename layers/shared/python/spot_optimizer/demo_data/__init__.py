"""Something to look at in a deployment without workloads: `spotctl demo-data load`.

Written through the adapters, with an operator's own AWS credentials. Loading again changes nothing but signs of life
and the time that has passed. The demo agents stand still: no instance of theirs exists, EC2 does not know the ids, so
nothing is ever launched, moved or terminated for them.
"""
