"""What each verb can be asked: frozen dataclasses that need neither torch nor Ray.

So `--help` and a mistake in an argument cost no seconds. The verbs beside this package do what they say.
"""
