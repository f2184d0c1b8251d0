"""The names of domain adaptation methods and of the roles of rows in a batch of two domains; imports no torch."""

CRITIC_METHODS = ("dann", "cdan")  # a critic behind gradient reversal
PROBABILITY_METHODS = ("cdan", "mcc", "bnm")  # read probabilities of a bank's captions or of a classifier's classes
PREDICTION_METHODS = ("mcc", "bnm")  # read predictions only, and do not depend on the alignment point
DOMAIN_METHODS = ("dann", "cdan", "mmd", "coral", "mcc", "bnm")
STRENGTH_SCHEDULES = ("ramp", "constant")  # of the strength
JOINT = "joint"  # the alignment point of all modalities together: one embedding space, or the fusion's features
SOURCE, TARGET, TARGET_TEXT = "source", "target", "target_text"  # the roles of rows
SECOND_VIEW = "again"  # the batch field with a second view of the target's images
